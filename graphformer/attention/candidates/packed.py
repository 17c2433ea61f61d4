"""Texts that are packed into one row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Packed(Rule, name="packed"):
    """Several texts packed into one row: only pairs of the same segment. ``segments`` is int
    ``[B, Nk]``, one number a text.
    """

    same_heads = True
    segments: Tensor

    def starts(self) -> Tensor | None:
        places = torch.arange(self.segments.shape[1], device=self.segments.device)
        begins = F.pad(self.segments.diff(dim=-1) != 0, (1, 0), value=True)
        return torch.where(begins, places, 0).cummax(-1).values

    def allow(self, pairs: Pairs) -> Tensor:
        return (
            self.segments[pairs.sequence, pairs.position]
            == self.segments[pairs.sequence, pairs.sender]
        )

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if tuple(self.segments.shape) != (batch, num_senders):
            raise ValueError(
                f"segments must have shape [{batch}, {num_senders}] (batch, keys), got "
                f"{list(self.segments.shape)}"
            )
        if num_receivers > num_senders:
            raise ValueError(
                f"packed texts need at least as many keys as queries, got {num_receivers} queries "
                f"and {num_senders} keys: a query's text is that of the key at its own position"
            )
        if self.segments.is_floating_point():
            raise TypeError(
                f"segments must hold integers, one number a text, got {self.segments.dtype}"
            )
