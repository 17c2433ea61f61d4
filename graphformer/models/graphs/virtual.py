"""Virtual nodes: nodes that belong to no data, joined to all nodes of their graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphformer.attention.relations import TypedEdges
from graphformer.errors import whole
from graphformer.models.graphs.data import Level, Pairs
from graphformer.models.graphs.parts import Block
from graphformer.models.graphs.refined import Refined
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.pairs import Structure


@dataclass(frozen=True, eq=False)
class Joined:
    """Candidates among nodes and virtual nodes, which are numbered behind them.

    Attributes:
        edges, features, given: those of all pairs, as of pairs of nodes.
        own: the candidates among the nodes alone. real: bool ``[E]``, which of all pairs they are.
    """

    edges: EdgeList
    features: Tensor | None
    given: GivenEdges | None
    own: EdgeList
    real: Tensor

    def prior(self, weight: Tensor | None) -> Tensor | None:
        """The refined graph's weights of real pairs ``[E_own]``, 0 for the others."""
        if weight is None:
            return None
        return weight.new_zeros(self.edges.num_edges).index_put(
            (self.real.nonzero().squeeze(1),), weight
        )

    def refined(self, found: Refined) -> Refined:
        """The refined graph among the nodes."""
        return Refined(self.own, found.weight[self.real], found.kept[self.real])


class VirtualNodes(nn.Module):
    r"""``number`` nodes for each graph with learned features. Each sends to every node of its graph
    and hears from all of them, in the same rows and heads as the other pairs, so any two nodes are
    two steps apart (virtual nodes of arXiv 1704.01212; global attention of Exphormer, arXiv
    2303.06147, whose other part is ``candidates="edges+expander:4"``).

    They are the same for every node, so a model stays permutation equivariant, and no pair joins
    two graphs. Their pairs have one learned vector for features where pairs have some.
    """

    def __init__(self, number: int, hidden_size: int, edge_width: int | None) -> None:
        super().__init__()
        self.nodes = nn.Parameter(torch.empty(number, hidden_size))
        self.pair = None if edge_width is None else nn.Parameter(torch.empty(edge_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.nodes)
        if self.pair is not None:
            nn.init.normal_(self.pair)

    def join(self, structure: Structure, pairs: Pairs) -> Joined:
        """Candidates of the nodes, and those of virtual nodes."""
        edges, features, given = pairs
        nodes, number = structure.num_nodes, len(self.nodes)
        node = torch.arange(nodes, device=structure.graph.device).repeat_interleave(number)
        virtual = torch.arange(number, device=node.device).repeat(nodes)
        virtual = virtual + nodes + number * structure.graph[node]
        total = nodes + number * structure.num_graphs
        senders = torch.cat((edges.senders, node, virtual))
        receivers = torch.cat((edges.receivers, virtual, node))
        # equal pairs stay in their order, so those of the nodes come as they were
        joined = EdgeList.sort(senders, receivers, total, total)
        joined = dataclasses.replace(joined, ids=joined.order)
        real = joined.order < edges.num_edges
        if features is not None:
            assert self.pair is not None
            features = torch.cat((features, self.pair.expand(2 * len(node), -1)))[joined.order]
        if given is not None:
            other = given.number.new_full((2 * len(node),), -1)
            given = dataclasses.replace(
                given, number=torch.cat((given.number, other))[joined.order]
            )
        return Joined(joined, features, given, edges, real)


def through(
    block: Block,
    level: Level,
    pairs: Pairs,
    prior: Tensor | None,
    virtual: VirtualNodes | None,
    typed: Sequence[TypedEdges],
) -> None:
    """A block on the nodes of a level, and on its virtual nodes, which the level keeps."""
    joined, h, nodes = None, level.h, level.structure.num_nodes
    edges, features, given = pairs
    if virtual is not None:
        extra = level.virtual
        if extra is None:
            extra = virtual.nodes.repeat(level.structure.num_graphs, 1)
        joined, h = virtual.join(level.structure, pairs), torch.cat((h, extra.to(h.dtype)))
        edges, features, given = joined.edges, joined.features, joined.given
        prior = joined.prior(prior)
    level.start = h if level.start is None else level.start
    before = level.graph, level.start, level.first
    h, level.graph, found, sent = block(h, edges, features, prior, given, *before, typed=typed)
    level.first = sent if level.first is None else level.first
    level.refined = found if joined is None else joined.refined(found)
    level.h, level.virtual = h[:nodes], None if virtual is None else h[nodes:]


def virtual_of(number: int, hidden_size: int, edge_width: int | None) -> VirtualNodes | None:
    """None for no virtual node."""
    if not whole("virtual_nodes", number, 0):
        return None
    return VirtualNodes(number, hidden_size, edge_width)
