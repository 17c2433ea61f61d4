"""A rule for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule, joined, overlap
from graphformer.attention.candidates.senders import Senders, by_head
from graphformer.attention.pairs import Pairs
from graphformer.errors import whole
from graphformer.graph import AttentionGraph


@dataclass(frozen=True)
class PerHead(Rule, name="per_head"):
    """Head ``h`` may look at what the ``h``-th rule allows: half local and half everywhere is
    ``PerHead((Window(64), All()), counts=(4, 4))``, which is
    ``PerHead((Window(64),) * 4 + (All(),) * 4)``.

    On a given graph a rule sees nodes by their numbers in the batch, and
    :class:`~graphformer.attention.candidates.Given` the edges of the data: with
    ``candidates="all"``, ``PerHead((Given(), All()), counts=(2, 2))`` has two heads on the edges
    and two on all pairs. At coarse levels, where the data have no edges, they are all candidates.

    Args:
        rules: one a head, in the order of the heads.
        counts: how many heads each rule is for, where that is not one.
    """

    rules: Sequence[Rule]
    counts: Sequence[int] | None = None

    def __post_init__(self) -> None:
        rules = tuple(self.rules)
        if self.counts is not None:
            if len(self.counts) != len(rules):
                raise ValueError(
                    f"PerHead holds {len(rules)} rules and counts {list(self.counts)}: give a "
                    "number of heads for each rule"
                )
            for number in self.counts:
                whole("counts", number, 0)
            rules = tuple(
                one for one, number in zip(rules, self.counts, strict=True) for _ in range(number)
            )
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "counts", None)  # the same value, however it was written
        for one in self.rules:
            if not isinstance(one, Rule):
                raise TypeError(f"PerHead takes a rule for each head, got {type(one).__name__}")

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return any(one.absolute for one in self.rules)

    def counted_from(self, starts: Tensor) -> Rule:
        return PerHead(tuple(one.counted_from(starts) for one in self.rules))

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return PerHead(tuple(one.of_call(q, k, training) for one in self.rules))

    def by_head(self) -> Sequence[Rule] | None:
        return self.rules if all(one.same_heads for one in self.rules) else None

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return any(one.chooses for one in self.rules)

    def among(self, limits: Rule) -> Rule:
        parts = tuple(one.among(limits) for one in self.rules)
        return self if parts == self.rules else PerHead(parts)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        return by_head([one.listed(sizes, device) for one in self.rules])

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        return PerHead(tuple(one.on_edges(given) for one in self.rules))

    def allow(self, pairs: Pairs) -> Tensor:
        answer: Tensor | None = None
        for rule in dict.fromkeys(self.rules):
            heads = [h for h, one in enumerate(self.rules) if one is rule or one == rule]
            here = torch.isin(
                pairs.head, torch.tensor(heads, device=pairs.head.device)
            ) & rule.allow(pairs)
            answer = here if answer is None else answer | here
        assert answer is not None
        return answer

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if len(self.rules) != heads:
            raise ValueError(
                f"PerHead holds {len(self.rules)} rules, but there are {heads} heads: give one for "
                "each"
            )
        for one in self.rules:
            one.check(batch, heads, num_receivers, num_senders)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        parts = [one.reach(rows, num_receivers, num_senders) for one in self.rules]
        return range(min(one.start for one in parts), max(one.stop for one in parts))

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        parts = (one.reaches(rows, num_receivers, num_senders) for one in self.rules)
        return joined(one for part in parts for one in part)

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        first, *others = (one.free(rows, num_receivers, num_senders) for one in self.rules)
        for one in others:
            first = overlap(first, one)
        return first
