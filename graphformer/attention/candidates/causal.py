"""Senders at or before the receiver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True)
class Causal(Rule, name="causal"):
    """Senders at or before the receiver; the last receiver sees the last sender."""

    causal = True
    same_heads = True

    def allow(self, pairs: Pairs) -> Tensor:
        return pairs.sender <= pairs.position

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(max(0, rows.stop + num_senders - num_receivers))

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(max(0, rows.start + 1 + num_senders - num_receivers))

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        place = torch.arange(sizes[2], device=device) + (sizes[3] - sizes[2])
        return Senders.between(torch.zeros_like(place), place + 1, sizes[3])

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if num_receivers > num_senders:
            raise ValueError(
                f"causal attention needs at least as many keys as queries, got {num_receivers} "
                f"queries and {num_senders} keys: the last query sees the last key"
            )
