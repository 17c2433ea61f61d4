"""Slot 1, candidates: which pairs of sender and receiver may be scored at all.

A rule is a boolean formula on index tensors that broadcast against each other (like FlexAttention's
``mask_mod``). One formula serves blocks of rows and lists of edges alike. Rules combine with ``&``.
A rule may look at a pair's positions, never at the total length, so that a prefix gives the answers
of the full sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.errors import whole
from graphformer.graph import AttentionGraph
from graphformer.keys import unique_pairs


@dataclass(frozen=True)
class Pairs:
    """The pairs a rule is asked about: four int64 tensors that broadcast against each other, and
    the sizes.
    """

    sequence: Tensor
    head: Tensor
    receiver: Tensor
    sender: Tensor
    num_receivers: int
    num_senders: int

    @property
    def position(self) -> Tensor:
        """The receiver's place among the senders: with a cache, the last receiver is the last
        sender.
        """
        return self.receiver + (self.num_senders - self.num_receivers)

    @classmethod
    def every(
        cls, batch: int, heads: int, num_receivers: int, num_senders: int, device: torch.device
    ) -> Pairs:
        """All pairs, shaped to broadcast to ``[batch, heads, num_receivers, num_senders]``."""
        return cls(
            torch.arange(batch, device=device).view(-1, 1, 1, 1),
            torch.arange(heads, device=device).view(-1, 1, 1),
            torch.arange(num_receivers, device=device).view(-1, 1),
            torch.arange(num_senders, device=device),
            num_receivers,
            num_senders,
        )


class Rule:
    """Base of the candidate rules; a rule of your own overrides :meth:`allow`."""

    def allow(self, pairs: Pairs) -> Tensor:
        """Bool, broadcastable to the pairs' common shape: may this sender be attended to by this
        receiver?
        """
        raise NotImplementedError

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        """Raise ValueError where the rule does not fit these sizes."""

    # Two bounds that save work where they are known. They may be wide, never wrong.

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        """Senders outside which nothing is allowed for any of these (consecutive) receivers."""
        return range(num_senders)

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        """Senders that are allowed for each of these receivers, in every lane."""
        return range(0)

    def __and__(self, other: Rule) -> Rule:
        return Both(self, other)


@dataclass(frozen=True)
class Both(Rule):
    """Pairs that both rules allow."""

    first: Rule
    second: Rule

    def allow(self, pairs: Pairs) -> Tensor:
        return self.first.allow(pairs) & self.second.allow(pairs)

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.first.check(batch, heads, num_receivers, num_senders)
        self.second.check(batch, heads, num_receivers, num_senders)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return overlap(
            self.first.reach(rows, num_receivers, num_senders),
            self.second.reach(rows, num_receivers, num_senders),
        )

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return overlap(
            self.first.free(rows, num_receivers, num_senders),
            self.second.free(rows, num_receivers, num_senders),
        )


def overlap(first: range, second: range) -> range:
    """The numbers in both ranges."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


@dataclass(frozen=True)
class All(Rule):
    """Every pair."""

    def allow(self, pairs: Pairs) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=pairs.sender.device)

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(num_senders)


@dataclass(frozen=True)
class Causal(Rule):
    """Senders at or before the receiver; the last receiver sees the last sender."""

    def allow(self, pairs: Pairs) -> Tensor:
        return pairs.sender <= pairs.position

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(max(0, rows.stop + num_senders - num_receivers))

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(max(0, rows.start + 1 + num_senders - num_receivers))

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if num_receivers > num_senders:
            raise ValueError(
                f"causal attention needs at least as many keys as queries, got {num_receivers} "
                f"queries and {num_senders} keys: the last query sees the last key"
            )


@dataclass(frozen=True)
class Window(Rule):
    """Senders at most ``size - 1`` positions away, on either side (intersect with :class:`Causal`
    for one side).
    """

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


@dataclass(frozen=True, eq=False)
class Keep(Rule):
    """A mask: ``keep`` is ``[B, Nk]`` (real senders, padding is 0) or ``[B or 1, H or 1, Nq, Nk]``;
    true or 1 may be attended to.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.ndim not in (2, 4):
            raise ValueError(
                "attention_mask must be [B, Nk] or [B, 1, Nq, Nk], got shape "
                f"{tuple(self.keep.shape)}"
            )
        if self.keep.is_floating_point() and self.keep.ndim == 4:
            # Not even one of zeros: an additive mask of zeros masks nothing, and read as booleans
            # it would mask everything.
            raise ValueError(
                "attention_mask [B, 1, Nq, Nk] must be boolean or integer, got floating point "
                "values; turn an additive mask into a boolean one with mask == 0"
            )
        # Whether the values fit is in the data, which torch.compile does not look at.
        unseen = self.keep.dtype == torch.bool or torch.compiler.is_compiling()
        if not unseen and not bool(((self.keep == 0) | (self.keep == 1)).all()):
            raise ValueError(
                "attention_mask must hold 1 (attend) and 0 (ignore) or booleans, but it holds "
                "other values; turn an additive mask into a boolean one with mask == 0, and give "
                "numbers of packed texts as candidates=Packed(segments)"
            )
        object.__setattr__(self, "keep", self.keep.bool())

    def allow(self, pairs: Pairs) -> Tensor:
        if self.keep.ndim == 2:
            return self.keep[pairs.sequence, pairs.sender]
        batch, heads = self.keep.shape[:2]
        sequence = pairs.sequence if batch > 1 else torch.zeros_like(pairs.sequence)
        head = pairs.head if heads > 1 else torch.zeros_like(pairs.head)
        return self.keep[sequence, head, pairs.receiver, pairs.sender]

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        shape = tuple(self.keep.shape)
        if len(shape) == 2:
            fits = shape == (batch, num_senders)
        else:
            fits = (
                shape[0] in (1, batch)
                and shape[1] in (1, heads)
                and shape[2:] == (num_receivers, num_senders)
            )
        # only now the text: to torch.compile, a length that is written out is a constant
        if not fits:
            pairs = (
                f"[{batch} or 1, {heads} or 1, {num_receivers}, {num_senders}] (batch, heads, "
                "queries, keys)"
            )
            wanted = f"[{batch}, {num_senders}] (batch, keys)" if len(shape) == 2 else pairs
            raise ValueError(f"attention_mask must have shape {wanted}, got {list(shape)}")


@dataclass(frozen=True, eq=False)
class Packed(Rule):
    """Several texts packed into one row: only pairs of the same segment. ``segments`` is int
    ``[B, Nk]``, one number a text.
    """

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


@dataclass(frozen=True, eq=False)
class Edges:
    """Explicit candidate edges: only these pairs are scored, and the cost is linear in their
    number.

    Attributes:
        senders, receivers: int64 ``[E]``, node numbers within a sequence (0-based), the same for
            every head.
        sequence: int64 ``[E]``, the sequence of the batch each edge belongs to; left out, every
            sequence has every edge.
    """

    senders: Tensor
    receivers: Tensor
    sequence: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("senders", self.senders),
            ("receivers", self.receivers),
            ("sequence", self.sequence),
        ):
            if value is None:
                continue
            if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
                raise TypeError(f"candidate {name} must hold integers, got {value.dtype}")
            if value.ndim != 1 or value.shape != self.senders.shape:
                raise ValueError(
                    f"candidate {name} must be one-dimensional and as long as senders, got shape "
                    f"{tuple(value.shape)} beside {tuple(self.senders.shape)}"
                )
            object.__setattr__(self, name, value.long())

    def lanes(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> AttentionGraph:
        """One graph over all lanes, sorted by receiver and checked; weights are ones. Repeated
        edges count once.
        """
        for name, value, size in (
            ("senders", self.senders, num_senders),
            ("receivers", self.receivers, num_receivers),
        ):
            if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < size:
                raise ValueError(
                    f"candidate {name} must lie in 0..{size - 1}, got values from "
                    f"{int(value.min())} to {int(value.max())}"
                )
        if self.sequence is None:
            sequence = torch.arange(batch, device=self.senders.device).repeat_interleave(
                self.senders.numel()
            )
            senders, receivers = self.senders.repeat(batch), self.receivers.repeat(batch)
        else:
            sequence, senders, receivers = self.sequence, self.senders, self.receivers
            if sequence.numel() and not 0 <= int(sequence.min()) <= int(sequence.max()) < batch:
                raise ValueError(
                    f"candidate sequence must lie in 0..{batch - 1}, got values up to "
                    f"{int(sequence.max())}"
                )
        head = torch.arange(heads, device=senders.device).view(-1, 1)
        lane = (sequence * heads + head).reshape(-1)
        senders, receivers = senders.repeat(heads), receivers.repeat(heads)
        receivers, senders, _ = unique_pairs(
            lane * num_receivers + receivers, senders, batch * heads * num_receivers, num_senders
        )
        lane = torch.div(receivers, max(num_receivers, 1), rounding_mode="floor")
        senders = lane * num_senders + senders
        ones = torch.ones(senders.shape, device=senders.device)
        return AttentionGraph(
            senders, receivers, ones, batch * heads, num_senders, num_receivers, (batch, heads)
        )

    @classmethod
    def from_graph(cls, graph: AttentionGraph) -> Edges:
        """The edges of a graph with one lane (shared by all sequences) or one lane a sequence
        (after ``merge_heads``).
        """
        if len(graph.batch_shape) > 1:
            raise ValueError(
                "candidates from a graph need one lane per sequence, got batch_shape "
                f"{graph.batch_shape}; merge its heads first: graph.merge_heads('sum')"
            )
        local = (
            graph.senders % max(graph.num_senders, 1),
            graph.receivers % max(graph.num_receivers, 1),
        )
        return cls(*local, sequence=graph.sender_lane if graph.batch_shape else None)


_NAMED: dict[str, type[Rule]] = {"all": All, "causal": Causal}


def resolve(value: Rule | Edges | AttentionGraph | str | None) -> Rule | Edges:
    """A rule or edges from what a user may pass; ``None`` is every pair."""
    if value is None:
        return All()
    if isinstance(value, AttentionGraph):
        return Edges.from_graph(value)
    if isinstance(value, str):
        if value not in _NAMED:
            raise ValueError(
                f"unknown candidates {value!r}; known: {', '.join(_NAMED)}, a Rule, Edges or an "
                "AttentionGraph"
            )
        return _NAMED[value]()
    if not isinstance(value, (Rule, Edges)):
        raise TypeError(
            "candidates must be a name, a Rule, Edges or an AttentionGraph, got "
            f"{type(value).__name__}"
        )
    return value
