"""Senders in the neighbourhood of the receiver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.errors import whole


@dataclass(frozen=True)
class Window(Rule, name="window"):
    """Senders at most ``size - 1`` positions away, on either side (intersect with :class:`Causal`
    for one side).
    """

    same_heads = True
    size: int

    def __post_init__(self) -> None:
        if whole("size", self.size, 0) < 1:
            raise ValueError(f"a window must hold at least the token itself, got size={self.size}")

    def allow(self, pairs: Pairs) -> Tensor:
        return (pairs.position - pairs.sender).abs() < self.size

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        first, last = (
            rows.start + num_senders - num_receivers,
            rows.stop + num_senders - num_receivers,
        )
        start = min(max(0, first - self.size + 1), num_senders)
        return range(start, max(start, min(num_senders, last - 1 + self.size)))

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        place = torch.arange(sizes[2], device=device) + (sizes[3] - sizes[2])
        return Senders.between(place - self.size + 1, place + self.size, sizes[3])
