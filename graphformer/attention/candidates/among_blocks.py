"""Rules among tokens and the blocks that stand behind them in the row of senders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphformer.attention.candidates.base import All, Moved, Rule
from graphformer.attention.candidates.either import Either
from graphformer.attention.candidates.persistent import Added
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Intervals(Rule):
    """Senders in one of a receiver's intervals: the tokens of its block, and of each level blocks.

    Attributes:
        low, high: int64 ``[B or 1, Nq, levels + 1]``; ``low <= sender < high``.
        keep: bool ``[B, N]`` of the tokens.
        num_tokens: N.
    """

    low: Tensor
    high: Tensor
    keep: Tensor | None
    num_tokens: int

    def allow(self, pairs: Pairs) -> Tensor:
        sequence = pairs.sequence if len(self.low) > 1 else torch.zeros_like(pairs.sequence)
        low, high = (one[sequence, pairs.receiver] for one in (self.low, self.high))
        sender = pairs.sender
        seen = torch.zeros((), dtype=torch.bool, device=sender.device)
        for level in range(self.low.shape[-1]):
            seen = seen | ((low[..., level] <= sender) & (sender < high[..., level]))
        if self.keep is None:
            return seen
        token = sender.clamp(max=self.num_tokens - 1)
        return seen & (self.keep[pairs.sequence, token] | (sender >= self.num_tokens))

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        return Senders(self.low.unsqueeze(1), self.high.unsqueeze(1))

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        parts = self.reaches(rows, num_receivers, num_senders)
        return range(parts[0].start, parts[-1].stop) if parts else range(0)

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        low, high = (one[:, rows.start : rows.stop] for one in (self.low, self.high))
        if not low.numel():
            return []
        low = torch.where(low < high, low, num_senders)  # an empty interval reaches nothing
        ends = torch.stack((low.amin((0, 1)), high.amax((0, 1))), 1).tolist()
        return [range(*one) for one in ends if one[0] < one[1]]


@dataclass(frozen=True, eq=False)
class OnTokens(Rule):
    """A rule on tokens, among senders of which the first ``num_tokens`` are tokens."""

    rule: Rule
    num_tokens: int

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        rule = self.rule.of_call(q, k[:, :, : self.num_tokens], training)
        return replace(self, rule=rule)

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.rule.same_heads

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.rule.chooses

    def among(self, limits: Rule) -> Rule:
        return replace(self, rule=self.rule.among(All()))  # its own limits are in it

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.rule.check(batch, heads, num_receivers, self.num_tokens)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        return self.rule.listed((*sizes[:3], self.num_tokens), device)

    def allow(self, pairs: Pairs) -> Tensor:
        sender = pairs.sender.clamp(max=self.num_tokens - 1)
        inner = replace(pairs, sender=sender, num_senders=self.num_tokens)
        return self.rule.allow(inner) & (pairs.sender < self.num_tokens)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return self.rule.reach(rows, num_receivers, self.num_tokens)

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        return self.rule.reaches(rows, num_receivers, self.num_tokens)


@dataclass(frozen=True, eq=False)
class Coarsened(Rule):
    """A rule among tokens and blocks, of one call.

    Attributes:
        standing: int64 ``[B or 1, senders]``, the token at which each sender stands; a block stands
            at its last.
    """

    rule: Rule
    standing: Tensor

    def placed(self, pairs: Moved) -> Moved:
        return replace(pairs, standing=self.standing)

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return replace(self, rule=self.rule.of_call(q, k, training))

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.rule.chooses

    def among(self, limits: Rule) -> Rule:
        return replace(self, rule=self.rule.among(limits))

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.rule.check(batch, heads, num_receivers, num_senders)

    def beside(self) -> tuple[Rule, int] | None:
        rule = self.rule
        while isinstance(rule, Either):
            if isinstance(rule.second, Added):
                rule = rule.first
            elif isinstance(rule.first, Added):
                rule = rule.second
            else:
                return None
        return (rule.rule, rule.num_tokens) if isinstance(rule, OnTokens) else None

    def allow(self, pairs: Pairs) -> Tensor:
        return self.rule.allow(pairs)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        return self.rule.listed(sizes, device)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return self.rule.reach(rows, num_receivers, num_senders)

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        return self.rule.reaches(rows, num_receivers, num_senders)
