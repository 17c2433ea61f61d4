"""A rule for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule, joined, overlap
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True)
class PerHead(Rule, name="per_head"):
    """Head ``h`` may look at what the ``h``-th rule allows: half local and half everywhere is
    ``PerHead((Window(64),) * 4 + (All(),) * 4)``.

    On a given graph a rule sees nodes by their numbers in the batch.
    """

    rules: Sequence[Rule]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for one in self.rules:
            if not isinstance(one, Rule):
                raise TypeError(f"PerHead takes a rule for each head, got {type(one).__name__}")

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return PerHead(tuple(one.of_call(q, k, training) for one in self.rules))

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
