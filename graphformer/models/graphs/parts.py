"""The parts of the graph transformer, each small: one layer at one level, what passes between
levels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm

from graphformer.attention.feed_forwards import feed_forward_for
from graphformer.attention.head import Head
from graphformer.attention.operators import EdgeMessages
from graphformer.attention.relations import TypedEdges
from graphformer.attention.slot import from_spec, own_copy
from graphformer.errors import require_known
from graphformer.graph import AttentionGraph

# pickled models name these here
from graphformer.models.graphs.features import FeatureEncoder as FeatureEncoder
from graphformer.models.graphs.features import PairFeatures as PairFeatures
from graphformer.models.graphs.refined import Merge as Merge
from graphformer.models.graphs.refined import Refined as Refined
from graphformer.models.graphs.targets import Target as Target
from graphformer.models.graphs.targets import TargetHead as TargetHead
from graphformer.nn.attention_conv import AttentionConv
from graphformer.nn.conv import GINAttentionConv, PNAAttentionConv, SumAttentionConv
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.hierarchy import pool
from graphformer.nn.initial_residual import InitialResidual

# ---------------------------------------------------------------------- one layer


OPERATORS: dict[str, Any] = {
    "gin": GINAttentionConv,
    "pna": PNAAttentionConv,
    "sum": SumAttentionConv,
}
# In a residual block a node's own features are there already, and a norm in GIN's MLPs would hide
# how large a sum was: both cost accuracy (docs/graph-benchmarks.md).
IN_A_BLOCK: dict[str, dict[str, Any]] = {
    "gin": {"self_weight": 0.0, "mlp_norm": False},
    "pna": {},
    "sum": {"self_weight": 0.0},
}


def make_conv(
    operator: str,
    hidden_size: int,
    num_heads: int,
    edge_dim: int | None,
    options: Mapping[str, Any],
    *,
    mlp_ratio: float,
    head: Head | None = None,
    **shared: Any,
) -> AttentionConv:
    """The attention of one block; slot values with parameters are one for each. ``options`` of its
    operator overrule the shared ones.
    """
    own = IN_A_BLOCK[operator] | ({} if operator == "sum" else {"mlp_ratio": mlp_ratio})
    if head is not None and head.operator is not None:
        own = {}
    # Among the shared ones is head_channels, which asks for an output map: it mixes the heads
    # before they are added to what was there.
    shared |= {**own, **options}
    for slot in ("sparsify", "normalize", "score"):
        if isinstance(shared.get(slot), Mapping):
            shared[slot] = from_spec(slot, shared[slot], num_heads=num_heads)
        shared[slot] = own_copy(shared[slot])
    if head is not None:
        shared["head"] = head
    return OPERATORS[operator](
        hidden_size, hidden_size, num_heads, edge_dim, **copy.deepcopy(shared)
    )


NORMS: dict[str, Any] = {
    "layer": nn.LayerNorm,
    "batch": partial(BatchNorm, allow_single_element=True),
}


def make_norm(name: str, width: int) -> nn.Module:
    require_known("norm", name, NORMS)
    return NORMS[name](width)


class Block(nn.Module):
    """``h = h + attention(norm(h))``, then ``h + feed_forward(norm(h))``, on one level.

    Where ``prior`` is true the refined graph biases the scores: ``prior_h * r_e``, with a strength
    for each head that starts at 1. With ``initial_residual`` h is mixed first with what the level's
    first block was given.

    Attributes:
        later_read: whether a block of the level reads what the first one's heads send.
    """

    later_read: bool = False

    def __init__(
        self,
        conv: AttentionConv,
        hidden_size: int,
        dropout: float,
        *,
        prior: bool,
        merge: Merge,
        feed_forward: Any = "gated",
        intermediate_size: int,
        initial_residual: float | None = None,
        norm: str = "layer",
    ) -> None:
        super().__init__()
        self.attention_norm, self.conv = make_norm(norm, hidden_size), conv
        self.feed_forward_norm, self.feed_forward = (
            make_norm(norm, hidden_size),
            feed_forward_for(
                feed_forward,
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                num_heads=conv.heads,
                dropout=dropout,
            ),
        )
        prior = prior and conv.score_slot.biased
        self.prior = nn.Parameter(torch.ones(conv.heads)) if prior else None
        self.merge, self.dropout = merge, dropout
        self.initial_residual = None
        if initial_residual is not None:
            self.initial_residual = InitialResidual(initial_residual)

    def forward(
        self,
        h: Tensor,
        edges: EdgeList,
        features: Tensor | None,
        refined: Tensor | None,
        given: GivenEdges | None,
        previous: AttentionGraph | None = None,
        start: Tensor | None = None,
        first: Tensor | None = None,
        typed: Sequence[TypedEdges] = (),
    ) -> tuple[Tensor, AttentionGraph, Refined, Tensor | None]:
        """Nodes ``[N, hidden]``, candidates and their features, the last refined graph's weights
        ``[E]`` on them, which are given, the last layer's graph, what the level's first block was
        given and what its heads sent, and the relations' edges.

        Returns:
            Nodes, the heads' graph, the refined graph, and what the heads sent ``[1, H, N, d]``,
            None where no later block reads it.
        """
        if self.initial_residual is not None and start is not None:
            h = self.initial_residual(h, start)
        bias = (
            None
            if refined is None or self.prior is None
            else refined.unsqueeze(-1) * self.prior.to(refined.dtype)
        )
        x = self.attention_norm(h)
        previous = previous if self.conv.score_slot.previous else None
        first = first if self.conv.features.reads_first else None
        attended, graph, kept, sent = self.conv.attend(
            x, x, edges, features, bias, given, previous=previous, typed=typed, first=first
        )
        later = sent if self.later_read else None
        del sent  # not held over the feed-forward for nothing
        h = h + F.dropout(attended, self.dropout, self.training)
        x, forward = self.feed_forward_norm(h), self.feed_forward
        if forward.reads_graph:
            if self.conv.explain:
                raise ValueError(
                    "an explainer masks the messages of attention, and those of this feed-forward "
                    "pass over the graph beside them: explain a model with feed_forward='gated'"
                )
            h = h + forward(x, EdgeMessages(graph, self.conv.heads, self.conv.backend))
        else:
            h = h + forward(x)
        return h, graph, self.merge(edges, kept), later


# ---------------------------------------------------------------------- between levels


class Up(nn.Module):
    """From members to their group: a linear map of mean, maximum and logarithm of their number."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm, self.linear = (
            nn.LayerNorm(hidden_size),
            nn.Linear(2 * hidden_size + 1, hidden_size),
        )

    def forward(self, h: Tensor, parent: Tensor, num_groups: int) -> Tensor:
        x = self.norm(h)
        size = torch.bincount(parent, minlength=num_groups).unsqueeze(-1).to(x.dtype).log1p()
        return self.linear(
            torch.cat(
                (pool(x, parent, num_groups, "mean"), pool(x, parent, num_groups, "max"), size), -1
            )
        )


class Down(nn.Module):
    """From a group to its members: a linear map."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, coarse: Tensor, parent: Tensor) -> Tensor:
        return self.linear(self.norm(coarse))[parent]


class Layer(nn.Module):
    """A block for every level, and the maps between neighbouring levels; for every level an update
    of the features of its pairs, or none.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        hidden_size: int,
        edges: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.edges = None if edges is None else nn.ModuleList(edges)
        self.up = nn.ModuleList(Up(hidden_size) for _ in blocks[1:])
        self.down = nn.ModuleList(Down(hidden_size) for _ in blocks[1:])


class Readout(nn.Module):
    """Mean, maximum and sum of a graph's nodes, at every level: ``[num_graphs, width]``.

    A sum s is compressed to ``sign(s) log(1 + |s|)``: it tells sizes, and a large graph's does not
    drown all else.
    """

    def __init__(self, hidden_size: int, num_levels: int, reductions: Sequence[str]) -> None:
        super().__init__()
        for one in reductions:
            require_known("readout", one, ("mean", "sum", "max"))
        if not reductions:
            raise ValueError("readout is empty; give some of mean, sum, max")
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(num_levels))
        self.reductions = tuple(reductions)
        self.width = hidden_size * num_levels * len(self.reductions)

    def forward(self, levels: Sequence[tuple[Tensor, Tensor]], num_graphs: int) -> Tensor:
        """``levels``: nodes ``[N, hidden]`` and the graph of each, finest first."""
        parts = []
        for (h, graph), norm in zip(levels, self.norms, strict=True):
            x = norm(h)
            for one in self.reductions:
                pooled = pool(x, graph, num_graphs, one)
                parts.append(pooled.sign() * pooled.abs().log1p() if one == "sum" else pooled)
        return torch.cat(parts, -1)

    def extra_repr(self) -> str:
        return f"reductions={self.reductions}"
