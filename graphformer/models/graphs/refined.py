"""The refined graph: the heads' graphs of one layer merged into one, from which the next layer
starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphformer.graph import AttentionGraph
from graphformer.nn.edge_list import EdgeList


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
        sizes = kept.num_senders, kept.num_receivers
        return AttentionGraph.of_sorted(
            (kept.senders, kept.receivers), self.weight[self.kept], sizes
        )

    def on(self, edges: EdgeList) -> Tensor:
        """The weights ``[E']`` on another list of candidates: each edge its own, equal pairs too, 0
        for one that is new.
        """
        if edges is self.edges:
            return self.weight
        known, order = self.edges.identity.sort()
        if not len(known):
            return self.weight.new_zeros(edges.num_edges)
        asked, weight = edges.identity, self.weight[order]
        place = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
        return torch.where(known[place] == asked, weight[place], torch.zeros_like(weight[place]))

    def dropped(self) -> Tensor:
        """Edges (:attr:`EdgeList.identity`) that were candidates and that no head kept."""
        return self.edges.identity[~self.kept]


MERGES = ("mean", "sum", "learned")


class Merge(nn.Module):
    """The heads' weights of each candidate edge to one: the mean, the sum (at most 1), or a learned
    convex combination.

    Attributes:
        counted: tells which heads count, bool ``[H]``; None: all do. Pruning sets it.
    """

    counted: Callable[[], Tensor] | None = None

    def __init__(self, how: str, num_heads: int) -> None:
        super().__init__()
        self.how = how
        self.mix = nn.Parameter(torch.zeros(num_heads)) if how == "learned" else None

    def forward(self, edges: EdgeList, kept: AttentionGraph) -> Refined:
        """``kept`` has edges in the place of senders, see :meth:`EdgeList.edges_as_senders`."""
        flat = kept.weight.new_zeros(kept.num_lanes * edges.num_edges).index_put(
            (kept.senders,), kept.weight
        )
        heads, numbers = flat.view(kept.num_lanes, edges.num_edges), kept.senders
        mix: Tensor | None = self.mix
        if self.counted is not None:
            left = self.counted()
            heads, mix = heads[left], None if mix is None else mix[left]
            numbers = numbers[left[numbers // max(edges.num_edges, 1)]]
        if mix is not None:
            weight = mix.softmax(0).to(heads.dtype) @ heads
        else:
            weight = heads.mean(0) if self.how == "mean" else heads.sum(0).clamp(max=1.0)
        any_head = torch.zeros(edges.num_edges, dtype=torch.bool, device=weight.device)
        any_head[numbers % max(edges.num_edges, 1)] = True
        return Refined(edges, weight, any_head)

    def extra_repr(self) -> str:
        return self.how
