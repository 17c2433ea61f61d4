"""Pairs that one of two rules allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule, joined
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.graph import AttentionGraph


@dataclass(frozen=True)
class Either(Rule, name="either"):
    """Pairs that the first or the second allows: ``First(4) | Window(512)``."""

    first: Rule
    second: Rule

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.first.absolute or self.second.absolute

    def counted_from(self, starts: Tensor) -> Rule:
        return Either(self.first.counted_from(starts), self.second.counted_from(starts))

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        parts = self.first.of_call(q, k, training), self.second.of_call(q, k, training)
        return self if parts == (self.first, self.second) else Either(*parts)

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        parts = self.first.on_edges(given), self.second.on_edges(given)
        return self if parts == (self.first, self.second) else Either(*parts)

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.first.same_heads and self.second.same_heads

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.first.chooses or self.second.chooses

    def among(self, limits: Rule) -> Rule:
        parts = self.first.among(limits), self.second.among(limits)
        return self if parts == (self.first, self.second) else Either(*parts)

    def allow(self, pairs: Pairs) -> Tensor:
        return self.first.allow(pairs) | self.second.allow(pairs)

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.first.check(batch, heads, num_receivers, num_senders)
        self.second.check(batch, heads, num_receivers, num_senders)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        first, second = (
            one.reach(rows, num_receivers, num_senders) for one in (self.first, self.second)
        )
        if not (first and second):
            return first or second
        return range(min(first.start, second.start), max(first.stop, second.stop))

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        parts = (one.reaches(rows, num_receivers, num_senders) for one in (self.first, self.second))
        return joined(one for part in parts for one in part)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        first, second = (one.listed(sizes, device) for one in (self.first, self.second))
        return None if first is None or second is None else first | second
