"""What a PyG ``Data`` or ``Batch`` says, read as levels of nodes, and the errors for what cannot be
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.relations import GraphEdges, Relation, TypedEdges
from graphformer.graph import AttentionGraph
from graphformer.models.graphs.refined import Refined
from graphformer.models.graphs.unread import refuse_other_edges
from graphformer.nn.edge_list import EdgeList, check_ends
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.graph_inputs import refuse_crossing, refuse_nan
from graphformer.nn.pairs import Structure

Pairs = tuple[EdgeList, Tensor | None, GivenEdges | None]


@dataclass
class Level:
    """One level while it is computed.

    Attributes:
        structure: its nodes and given edges.
        h: ``[N, hidden]``.
        edge_features: of its given edges, ``[E, edge_hidden]``.
        parent: the node of this level that each node of the level below belongs to.
        refined: its last refined graph.
        graph: the heads' last graph.
        pairs: by candidates' name: the pairs, their features, and at the finest level which of the
            data's edges they are; made once for all layers.
        dropped: edges (:attr:`EdgeList.identity`) that a refined graph has dropped.
        start: what its first layer was given ``[N, hidden]``. first: what that layer sends
            ``[1, H, N, d]``.
        virtual: its virtual nodes ``[num_graphs * number, hidden]``, which ``start`` and ``first``
            then hold too, behind the nodes.
    """

    structure: Structure
    h: Tensor
    edge_features: Tensor | None
    parent: Tensor | None = None
    refined: Refined | None = None
    graph: AttentionGraph | None = None
    pairs: dict[str, Pairs] = field(default_factory=dict)
    dropped: Tensor | None = None
    start: Tensor | None = None
    first: Tensor | None = None
    virtual: Tensor | None = None

    def features_of(self, edges: EdgeList) -> Tensor | None:
        """The features of these candidates, which are those of one of its :attr:`pairs`."""
        return next(features for listed, features, _ in self.pairs.values() if listed is edges)

    def without_dropped(self, pairs: Pairs) -> Pairs:
        """Those that no refined graph has dropped."""
        if self.dropped is None:
            return pairs
        edges, features, given = pairs
        keep = ~torch.isin(edges.identity, self.dropped)
        return (
            edges.select(keep),
            None if features is None else features[keep],
            None if given is None else given.select(keep),
        )

    def drop(self) -> None:
        """Candidates that the refined graph has dropped are none any more."""
        assert self.refined is not None
        gone = self.refined.dropped()
        self.dropped = gone if self.dropped is None else torch.cat((self.dropped, gone))


def read_structure(data: Any) -> Structure:
    """Nodes, edges and what is stored about them, checked."""
    if not hasattr(data, "num_nodes") or hasattr(data, "node_types"):
        raise TypeError(
            f"data must be a PyG Data or Batch with one type of nodes, got {type(data).__name__}"
        )
    refuse_other_edges(data)
    nodes = data.num_nodes
    if nodes is None:
        raise ValueError("the number of nodes is not known: give data.x, or data.num_nodes")
    edge_index = data.edge_index
    device = next(
        (value.device for value in (data.x, edge_index, data.pos) if value is not None),
        torch.device("cpu"),
    )
    if edge_index is None:
        edge_index = torch.zeros(2, 0, dtype=torch.int64, device=device)
    if edge_index.ndim != 2 or len(edge_index) != 2:
        raise ValueError(
            "data.edge_index must be [2, edges] (senders, receivers), got shape "
            f"{list(edge_index.shape)}"
        )
    senders, receivers = edge_index
    check_ends(senders, receivers, nodes, nodes, "data.edge_index")
    ptr, batch = data.get("ptr"), data.get("batch")
    if batch is None and ptr is not None and len(ptr) > 2:
        raise ValueError(
            f"data.ptr tells of {len(ptr) - 1} graphs, but data.batch, the graph of each node, is "
            "missing; make it: data.batch = torch.arange(len(data.ptr) - "
            "1).repeat_interleave(data.ptr.diff())"
        )
    graph = batch if batch is not None else torch.zeros(nodes, dtype=torch.int64, device=device)
    num_graphs = len(ptr) - 1 if ptr is not None else (int(graph.max()) + 1 if len(graph) else 1)
    if len(graph) != nodes or bool((graph[1:] < graph[:-1]).any()):
        raise ValueError(
            f"data.batch must be [{nodes}] and ascending: the nodes of a graph stand together"
        )
    refuse_crossing(graph, senders, receivers, nodes, nodes)
    pos = data.get("pos")
    if pos is not None:
        refuse_nan("data.pos", pos)
    stored = {
        name: data[name] for name in data.to_dict() if name.startswith(("encoding_", "candidates_"))
    }
    periodic = data.get("cell") is not None
    query = data.get("is_query")
    if query is not None and (query.dtype != torch.bool or query.shape != (nodes,)):
        raise ValueError(
            f"data.is_query must be a bool for each of the {nodes} nodes, got {query.dtype} of "
            f"shape {list(query.shape)}"
        )
    ends = senders.long(), receivers.long()
    return Structure(*ends, graph.long(), num_graphs, pos, stored, periodic, query)


def typed_edges(
    data: Any, structure: Structure, relations: Sequence[Relation]
) -> tuple[TypedEdges, ...]:
    """The edges of each relation, from what the data say of them."""
    read = {name for one in relations for name in one.attributes}
    types = data.get("edge_type") if "edge_type" in read else None
    attr = data.edge_attr if "edge_attr" in read else None
    given = GraphEdges(structure.senders, structure.receivers, types, attr)
    return tuple(one.typed(given) for one in relations)


def given_groups(data: Any, name: str, levels: list[Level]) -> Tensor:
    """The group of each node of the level below, from an attribute that gives it for every node of
    the data.
    """
    group, nodes = data.get(name), levels[0].structure.num_nodes
    if group is None:
        raise ValueError(
            f"data.{name} is missing: the model was made with levels=(..., {name!r}, ...)"
        )
    if group.is_floating_point() or group.shape != (nodes,):
        raise ValueError(
            f"data.{name} must hold an integer for each of the {nodes} nodes of the data (at every "
            f"level), got {group.dtype} of shape {list(group.shape)}"
        )
    group = group.long()
    if len(group) and int(group.min()) < 0:
        raise ValueError(
            f"data.{name} must hold groups from 0, got {int(group.min())}; give nodes without a "
            "group one of their own"
        )
    for level in levels[1:]:
        # The members of a node of this level must agree on its group.
        assert level.parent is not None
        count = level.structure.num_nodes
        low = group.new_full((count,), torch.iinfo(torch.int64).max).scatter_reduce(
            0, level.parent, group, "amin"
        )
        high = group.new_zeros(count).scatter_reduce(0, level.parent, group, "amax")
        if bool((low != high).any()):
            node = int((low != high).nonzero()[0])
            raise ValueError(
                f"data.{name} cuts through a group of the level below: its node {node} has members "
                f"in groups {int(low[node])} and {int(high[node])}. Levels must be nested, finest "
                "first"
            )
        group = low
    return group
