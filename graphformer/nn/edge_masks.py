"""Which edges of a layer's list were given, and in which order: what PyG's hooks and explainers
number edges by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GivenEdges:
    """Explainers know the edges alone that the user gave, in the order in which they were given.

    These come first, and others stand behind them.

    Attributes:
        number: int64 ``[E]``: the number of the given edge, -1 where an edge is none (a candidate
            that the model found).
        edge_index: ``[2, total]``, senders and receivers of the given edges.
        loops: the last of them so many are self-loops that the layer added.
    """

    number: Tensor
    edge_index: Tensor
    loops: int = 0

    @property
    def total(self) -> int:
        return self.edge_index.shape[1]

    def select(self, keep: Tensor) -> GivenEdges:
        """The edges for which ``keep`` (bool ``[E]``) is true; the others were given, and are no
        edges any more.
        """
        return GivenEdges(self.number[keep], self.edge_index, self.loops)

    def rows(self, senders: Tensor, receivers: Tensor) -> tuple[Tensor, Tensor]:
        """``[2, R]``: the given edges, then the others of the list; and the row of each edge of the
        list, int64 ``[E]``.
        """
        other = self.number < 0
        place = torch.where(other, self.total - 1 + other.cumsum(0), self.number)
        return torch.cat(
            (self.edge_index, torch.stack((senders[other], receivers[other]))), 1
        ), place
