"""Slot 1, candidates: which pairs of sender and receiver may be scored at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.attention.slot import Slot
from graphformer.graph import AttentionGraph

Moved = TypeVar("Moved", bound=Pairs)


class Rule(Slot, slot="candidates"):
    """Base of the candidate rules; a rule of your own overrides :meth:`allow`.

    Attributes:
        everything: whether it allows every pair.
        causal: whether it allows exactly the senders at or before the receiver, for which kernels
            have a mask of their own.
        same_heads: whether it allows the same in every head.
        chooses: whether it chooses among what is allowed besides (:meth:`among`).
        absolute: whether it reads at which place of the text a token stands, and not only how far
            two are apart. Behind padding, and in packed texts, places are then counted from the
            beginning of each text; layers on edges, whose nodes have no places, refuse it.
    """

    everything: bool = False
    causal: bool = False
    same_heads: bool = False
    absolute: bool = False
    chooses: bool = False
    said_of: ClassVar = {
        "allow": (
            *("everything", "causal", "same_heads"),
            *("reach", "reaches", "free", "by_head", "labels", "listed", "beside"),
        ),
        "reach": ("reaches",),
    }

    def allow(self, pairs: Pairs) -> Tensor:
        """Bool, broadcastable to the pairs' common shape: may this sender be attended to by this
        receiver?
        """
        raise NotImplementedError

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        """Raise ValueError where the rule does not fit these sizes."""

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        """The rule for these queries ``[B, H, Nq, d]`` and keys ``[B, Hkv, Nk, d]``; one that looks
        at positions alone is its own.
        """
        return self

    def placed(self, pairs: Moved) -> Moved:
        """The pairs, told where senders stand, where these are not all tokens in their order."""
        return pairs

    def by_head(self) -> Sequence[Rule] | None:
        """A rule for each head, which allows the same in every head; None where it is not made of
        such.
        """
        return None

    def labels(self) -> tuple[Tensor, Tensor] | None:
        """Numbers of receivers ``[B, H, Nq]`` and of senders ``[B, H, Nk]``, from 0, where it
        allows pairs of equal numbers alone; None where it knows of none.
        """
        return None

    def beside(self) -> tuple[Rule, int] | None:
        """The rule among the first senders and their number, where every receiver sees all senders
        behind them; None where it is not so, or not known.
        """
        return None

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        """The senders that each receiver may see as a list, and perhaps more; None where only all
        pairs tell.

        Args:
            sizes: sequences, heads, receivers, senders.
        """
        return None

    def among(self, limits: Rule) -> Rule:
        """The rule of one call, told what is allowed besides; for one that chooses among it."""
        return self

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        """The rule among the listed edges of a graph, of which ``given`` are those that the data
        gave; None for all.
        """
        return self

    def starts(self) -> Tensor | None:
        """The place where each sender's text begins, int64 ``[B, Nk]``, for a rule that knows it;
        None: with the row.
        """
        return None

    def counted_from(self, starts: Tensor) -> Rule:
        """The same, with places counted from ``starts``."""
        if not self.absolute:
            return self
        from graphformer.attention.candidates.counted import Counted

        return Counted(self, starts)

    def of_texts(self) -> Rule:
        """The same, with places counted from where each text begins."""
        starts = self.starts() if self.absolute else None
        return self if starts is None else self.counted_from(starts)

    # Two bounds that save work where they are known. They may be wide, never wrong.

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        """Senders outside which nothing is allowed for any of these (consecutive) receivers."""
        return range(num_senders)

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        """The same as several ranges in ascending order, none of which overlap or are empty."""
        whole = self.reach(rows, num_receivers, num_senders)
        return [whole] if whole else []

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        """Senders that are allowed for each of these receivers, in every lane."""
        return range(0)

    def __and__(self, other: Rule) -> Rule:
        return other if self.everything else Both(self, other)

    def __or__(self, other: Rule) -> Rule:
        from graphformer.attention.candidates.either import Either

        return Either(self, other)


@dataclass(frozen=True)
class Both(Rule, name="both"):
    """Pairs that both rules allow."""

    first: Rule
    second: Rule

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.first.absolute or self.second.absolute

    def starts(self) -> Tensor | None:
        first, second = self.first.starts(), self.second.starts()
        if first is None or second is None:
            return second if first is None else first
        return torch.maximum(first, second)

    def counted_from(self, starts: Tensor) -> Rule:
        return Both(self.first.counted_from(starts), self.second.counted_from(starts))

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        parts = self.first.of_call(q, k, training), self.second.of_call(q, k, training)
        return self if parts == (self.first, self.second) else Both(*parts)

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.first.chooses or self.second.chooses

    def among(self, limits: Rule) -> Rule:
        first = self.first.among(limits if self.second.chooses else limits & self.second)
        second = self.second.among(limits if self.first.chooses else limits & self.first)
        return self if (first, second) == (self.first, self.second) else Both(first, second)

    @property
    def everything(self) -> bool:  # type: ignore[override]
        return self.first.everything and self.second.everything

    @property
    def causal(self) -> bool:  # type: ignore[override]
        first, second = self.first, self.second
        return (first.causal and (second.everything or second.causal)) or (
            first.everything and second.causal
        )

    def allow(self, pairs: Pairs) -> Tensor:
        return self.first.allow(pairs) & self.second.allow(pairs)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        found = [one.listed(sizes, device) for one in (self.first, self.second)]
        lists = [one for one in found if one is not None]
        return min(lists, key=lambda one: int(one.counts(*sizes[:2]).sum()), default=None)

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.first.check(batch, heads, num_receivers, num_senders)
        self.second.check(batch, heads, num_receivers, num_senders)

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.first.same_heads and self.second.same_heads

    def by_head(self) -> Sequence[Rule] | None:
        own = [one.by_head() for one in (self.first, self.second)]
        if own[0] is None and own[1] is None:
            return None
        heads = len(own[0] or own[1] or ())
        parts = [
            [one] * heads if rules is None and one.same_heads else rules
            for one, rules in zip((self.first, self.second), own, strict=True)
        ]
        if parts[0] is None or parts[1] is None:
            return None
        return [
            first if second.everything else first & second
            for first, second in zip(*parts, strict=True)
        ]

    def labels(self) -> tuple[Tensor, Tensor] | None:
        first = self.first.labels()
        return self.second.labels() if first is None else first

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        parts = self.first.on_edges(given), self.second.on_edges(given)
        return self if parts == (self.first, self.second) else Both(*parts)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return overlap(
            self.first.reach(rows, num_receivers, num_senders),
            self.second.reach(rows, num_receivers, num_senders),
        )

    def reaches(self, rows: range, num_receivers: int, num_senders: int) -> list[range]:
        first, second = (
            one.reaches(rows, num_receivers, num_senders) for one in (self.first, self.second)
        )
        found = (overlap(one, other) for one in first for other in second)
        return [one for one in found if one]

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return overlap(
            self.first.free(rows, num_receivers, num_senders),
            self.second.free(rows, num_receivers, num_senders),
        )


def overlap(first: range, second: range) -> range:
    """The numbers in both ranges."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


def joined(parts: Iterable[range]) -> list[range]:
    """What is in one of the ranges, as ranges in ascending order that do not touch."""
    found: list[range] = []
    for one in sorted(parts, key=lambda part: part.start):
        if found and one.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    return found


@dataclass(frozen=True)
class All(Rule, name="all"):
    """Every pair."""

    everything = True
    same_heads = True

    def allow(self, pairs: Pairs) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=pairs.sender.device)

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(num_senders)

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        place = torch.zeros(sizes[2], dtype=torch.int64, device=device)
        return Senders.between(place, place + sizes[3], sizes[3])
