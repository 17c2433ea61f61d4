"""Texts that are packed into one row."""

from __future__ import annotations

from dataclasses import dataclass

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
