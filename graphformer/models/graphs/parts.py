"""The parts of the graph transformer, each small: features, one layer at one level, what passes
between levels.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.head import Head
from graphformer.attention.slot import from_spec, own_copy
from graphformer.errors import require_known
from graphformer.graph import AttentionGraph

# pickled models name these here
from graphformer.models.graphs.targets import Target as Target
from graphformer.models.graphs.targets import TargetHead as TargetHead
from graphformer.nn.attention_conv import AttentionConv
from graphformer.nn.conv import GINAttentionConv, PNAAttentionConv, SumAttentionConv
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.encodings import Encoding
from graphformer.nn.graph_inputs import refuse_nan
from graphformer.nn.hierarchy import pool
from graphformer.nn.mlp import GatedMLP
from graphformer.nn.pairs import Structure

# ---------------------------------------------------------------------- features


class FeatureEncoder(nn.Module):
    """Features of nodes or edges to a width: numbers by a linear map, categories by embeddings,
    none by one learned vector.

    Args:
        name: what errors call the input, ``"x"``.
        argument: the argument that gave ``dim``.
        dim: a number: so many floating channels, or that many categories where the input is one
            integer a row (the same parameters: an embedding is a linear map of a one-hot vector). A
            sequence: categories of each integer column. 0: there are no features.
        width: width of the output.
    """

    def __init__(self, name: str, argument: str, dim: int | Sequence[int], width: int) -> None:
        super().__init__()
        sizes = list(dim) if isinstance(dim, Sequence) and not isinstance(dim, str) else [dim]
        if any(isinstance(size, bool) or not isinstance(size, numbers.Integral) for size in sizes):
            raise TypeError(f"{argument} must be a whole number or a sequence of them, got {dim!r}")
        if (any(size < 1 for size in sizes) or not sizes) and dim != 0:
            raise ValueError(
                f"{argument} must be a positive number, a sequence of them, or 0 for no features; "
                f"got {dim}"
            )
        self.name, self.argument, self.dim = name, argument, dim
        self.columns = (
            None
            if isinstance(dim, int)
            else nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        )
        self.linear = nn.Linear(dim, width) if isinstance(dim, int) and dim else None
        self.constant = nn.Parameter(torch.randn(width) * 0.02) if dim == 0 else None

    def forward(self, value: Tensor | None, rows: int, dtype: torch.dtype) -> Tensor:
        if self.constant is not None:
            return self.constant.expand(rows, -1)
        if value is None:
            raise ValueError(
                f"data.{self.name} is missing: the model was made with {self.argument}={self.dim}"
            )
        value = value.unsqueeze(-1) if value.ndim == 1 else value
        if value.ndim != 2 or len(value) != rows:
            raise ValueError(
                f"data.{self.name} must have {rows} rows and at most 2 axes, got shape "
                f"{list(value.shape)}"
            )
        if self.columns is not None:
            return self._embed([embedding.weight for embedding in self.columns], value)  # type: ignore[misc]
        assert self.linear is not None and isinstance(self.dim, int)
        if not value.is_floating_point() and value.shape[1] == 1 and self.dim > 1:
            return self._embed([self.linear.weight.t()], value) + self.linear.bias
        if value.shape[1] != self.dim:
            raise ValueError(
                f"data.{self.name} must be [{rows}, {self.dim}] ({self.argument}={self.dim}), got "
                f"shape {list(value.shape)}"
            )
        value = value.to(dtype)
        refuse_nan(f"data.{self.name}", value)
        return self.linear(value)

    def _embed(self, tables: list[Tensor], value: Tensor) -> Tensor:
        if value.is_floating_point() or value.shape[1] != len(tables):
            raise ValueError(
                f"data.{self.name} must hold {len(tables)} columns of integer categories "
                f"({self.argument}={self.dim}), got {value.dtype} of shape {list(value.shape)}"
            )
        out = tables[0].new_zeros(len(value), tables[0].shape[1])
        for column, table in enumerate(tables):
            category = value[:, column].long()
            if len(category) and not 0 <= int(category.min()) <= int(category.max()) < len(table):
                raise ValueError(
                    f"data.{self.name}, column {column}, must hold categories in "
                    f"0..{len(table) - 1} ({self.argument}={self.dim}), got {int(category.min())} "
                    f"to {int(category.max())}"
                )
            out = out + F.embedding(category, table)
        return out


class PairFeatures(nn.Module):
    """Features ``[E, width]`` of candidate pairs: those of the given edge that a pair is, what kind
    of pair it is, encodings of pairs.

    Args:
        width: width of the output.
        kinds: whether some candidates are no given edges, which then needs saying.
        encodings: encodings of pairs.
    """

    def __init__(self, width: int, kinds: bool, encodings: Sequence[Encoding]) -> None:
        super().__init__()
        self.kind = nn.Parameter(torch.randn(2, width) * 0.02) if kinds else None
        self.encodings = list(encodings)
        self.maps = nn.ModuleList(nn.Linear(one.width, width, bias=False) for one in encodings)

    def forward(
        self, structure: Structure, edges: EdgeList, given: Tensor, edge_features: Tensor | None
    ) -> Tensor | None:
        """``given``: the number of the given edge that each candidate is, or -1; ``edge_features``:
        rows of the given edges.
        """
        is_given, parts = given >= 0, []
        dtype = next((one.dtype for one in self.parameters()), torch.float32)
        if edge_features is not None:
            rows = (
                edge_features[given.clamp(min=0)]
                if len(edge_features)
                else edge_features.new_zeros(len(given), edge_features.shape[1])
            )
            parts.append(rows * is_given.unsqueeze(-1).to(rows.dtype))
        if self.kind is not None:
            parts.append(self.kind[is_given.long()])
        for one, linear in zip(self.encodings, self.maps, strict=True):
            parts.append(linear(one.compute(structure, edges).to(dtype)))
        return torch.stack(parts).sum(0) if parts else None


# ---------------------------------------------------------------------- the refined graph


@dataclass
class Refined:
    """The heads' graphs of one layer merged into one: a weight for each candidate edge, 0 where no
    head kept it.

    Attributes:
        edges: the candidates.
        weight: ``[E]``, differentiable.
        kept: bool ``[E]``, whether some head kept the edge.
    """

    edges: EdgeList
    weight: Tensor
    kept: Tensor

    def graph(self) -> AttentionGraph:
        """The kept edges as one lane."""
        kept = self.edges.select(self.kept)
        return AttentionGraph(
            kept.senders,
            kept.receivers,
            self.weight[self.kept],
            1,
            kept.num_senders,
            kept.num_receivers,
            (),
        )

    def on(self, edges: EdgeList) -> Tensor:
        """The weights ``[E']`` on another list of candidates: equal pairs summed, 0 for a pair that
        is new.
        """
        if edges is self.edges:
            return self.weight
        keys, pair = torch.unique_consecutive(self.edges.keys, return_inverse=True)
        if not len(keys):
            return self.weight.new_zeros(edges.num_edges)
        total = self.weight.new_zeros(len(keys)).index_add(0, pair, self.weight)
        place = torch.searchsorted(keys, edges.keys).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == edges.keys, total[place], torch.zeros_like(total[place]))

    def dropped(self) -> Tensor:
        """Pairs (:attr:`EdgeList.keys`) that were candidates and that no head kept."""
        return self.edges.keys[~torch.isin(self.edges.keys, self.edges.keys[self.kept])]


MERGES = ("mean", "sum", "learned")


class Merge(nn.Module):
    """The heads' weights of each candidate edge to one: the mean, the sum (at most 1), or a learned
    convex combination.
    """

    def __init__(self, how: str, num_heads: int) -> None:
        super().__init__()
        self.how = how
        self.mix = nn.Parameter(torch.zeros(num_heads)) if how == "learned" else None

    def forward(self, edges: EdgeList, kept: AttentionGraph) -> Refined:
        """``kept`` has edges in the place of senders, see :meth:`EdgeList.edges_as_senders`."""
        flat = kept.weight.new_zeros(kept.num_lanes * edges.num_edges).index_put(
            (kept.senders,), kept.weight
        )
        heads = flat.view(kept.num_lanes, edges.num_edges)
        if self.mix is not None:
            weight = self.mix.softmax(0).to(heads.dtype) @ heads
        else:
            weight = heads.mean(0) if self.how == "mean" else heads.sum(0).clamp(max=1.0)
        any_head = torch.zeros(edges.num_edges, dtype=torch.bool, device=weight.device)
        any_head[kept.senders % max(edges.num_edges, 1)] = True
        return Refined(edges, weight, any_head)

    def extra_repr(self) -> str:
        return self.how


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
    # Given, head_channels asks for an output map, which mixes the heads before they are added to
    # what was there.
    shared |= {"head_channels": hidden_size // num_heads, **own, **options}
    for slot in ("sparsify", "normalize", "score"):
        if isinstance(shared.get(slot), Mapping):
            shared[slot] = from_spec(slot, shared[slot], num_heads=num_heads)
        shared[slot] = own_copy(shared[slot])
    if head is not None:
        shared["head"] = head
    return OPERATORS[operator](
        hidden_size, hidden_size, num_heads, edge_dim, **copy.deepcopy(shared)
    )


class Block(nn.Module):
    """``h = h + attention(norm(h))``, then ``h + feed_forward(norm(h))``, on one level.

    Where ``prior`` is true the refined graph biases the scores: ``prior_h * r_e``, with a strength
    for each head that starts at 1.
    """

    def __init__(
        self, conv: AttentionConv, hidden_size: int, dropout: float, *, prior: bool, merge: Merge
    ) -> None:
        super().__init__()
        self.attention_norm, self.conv = nn.LayerNorm(hidden_size), conv
        self.feed_forward_norm, self.feed_forward = (
            nn.LayerNorm(hidden_size),
            GatedMLP(hidden_size, 2 * hidden_size, dropout),
        )
        prior = prior and conv.score_slot.biased
        self.prior = nn.Parameter(torch.ones(conv.heads)) if prior else None
        self.merge, self.dropout = merge, dropout

    def forward(
        self,
        h: Tensor,
        edges: EdgeList,
        features: Tensor | None,
        refined: Tensor | None,
        given: GivenEdges | None,
        previous: AttentionGraph | None = None,
    ) -> tuple[Tensor, AttentionGraph, Refined]:
        """Nodes ``[N, hidden]``, candidates and their features, the last refined graph's weights
        ``[E]`` on them, and which are given.
        """
        bias = (
            None
            if refined is None or self.prior is None
            else refined.unsqueeze(-1) * self.prior.to(refined.dtype)
        )
        x = self.attention_norm(h)
        previous = previous if self.conv.score_slot.previous else None
        attended, graph, kept = self.conv.attend(
            x, x, edges, features, bias, given, previous=previous
        )
        h = h + F.dropout(attended, self.dropout, self.training)
        h = h + self.feed_forward(self.feed_forward_norm(h))
        return h, graph, self.merge(edges, kept)


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
    """A block for every level, and the maps between neighbouring levels."""

    def __init__(self, blocks: Sequence[Block], hidden_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
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
