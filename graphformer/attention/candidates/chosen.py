"""The senders of highest index in each row of one call."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphformer.attention.candidates.base import All, Rule
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Listed, Pairs
from graphformer.attention.slot import Slot

LIMIT = 2**20
"""Products that are held at a time."""


@dataclass(frozen=True, eq=False)
class Index(Slot):
    """``I_ij = sum_m v_im relu(<a_im, b_j>)``.

    Attributes:
        a: ``[B, M, Nq, w]``. b: ``[B, Nk, w]``. v: ``[B, M, Nq]``.
    """

    a: Tensor
    b: Tensor
    v: Tensor

    def of_rows(self, rows: range, columns: range) -> Tensor:
        """``[B, R, C]``."""
        a, v = (one[:, :, rows.start : rows.stop] for one in (self.a, self.v))
        dots = a @ self.b[:, columns.start : columns.stop].unsqueeze(1).mT
        return (dots.relu() * v.unsqueeze(-1)).sum(1)

    def of_pairs(self, pairs: Pairs) -> Tensor:
        """``[E]``."""
        a = self.a.transpose(1, 2)[pairs.sequence, pairs.receiver]  # [E, M, w]
        dots = (a * self.b[pairs.sequence, pairs.sender].unsqueeze(1)).sum(-1)
        return (dots.relu() * self.v.transpose(1, 2)[pairs.sequence, pairs.receiver]).sum(-1)


@dataclass(frozen=True, eq=False)
class Chosen(Rule):
    """What an index chose for each row.

    Attributes:
        index: with the gradient of its maps.
        limits: what is allowed besides, among which it chose.
        senders: int64 ``[B, H or 1, Nq, K]``, ascending; ``num_senders`` where a row has fewer.
            None: all.
    """

    index: Index
    limits: Rule
    senders: Tensor | None
    num_senders: int

    @property
    def everything(self) -> bool:  # type: ignore[override]
        return self.senders is None

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.senders is not None

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.senders is None or self.senders.shape[1] == 1

    @classmethod
    @torch.no_grad()
    def among_all(cls, index: Index, k: int | None, limits: Rule, heads: int) -> Chosen:
        """The ``k`` best of each row among the pairs that ``limits`` allow."""
        batch, index_heads, num_receivers, _ = index.a.shape
        num_senders = index.b.shape[1]
        if k is None or k >= num_senders or not num_receivers:
            return cls(index, limits, None, num_senders)
        own = 1 if limits.same_heads else heads
        every = Pairs.every(batch, own, num_receivers, num_senders, index.b.device)
        step = num_receivers
        if not torch.compiler.is_compiling():  # a number of stretches would be a constant there
            step = max(1, LIMIT // max(1, batch * max(index_heads, own) * num_senders))
        parts = []
        for start in range(0, num_receivers, step):
            rows = range(start, min(start + step, num_receivers))
            part = replace(every, receiver=every.receiver[rows.start : rows.stop])
            allowed = limits.allow(part).expand(batch, own, len(rows), num_senders)
            values = index.of_rows(rows, range(num_senders)).unsqueeze(1)
            parts.append(highest(values.masked_fill(~allowed, -torch.inf), allowed, k))
        return cls(index, limits, torch.cat(parts, 2), num_senders)

    def allow(self, pairs: Pairs) -> Tensor:
        if self.senders is None:
            return torch.ones((), dtype=torch.bool, device=pairs.sender.device)
        heads, num_receivers = self.senders.shape[1:3]
        size, lane = self.num_senders + 1, pairs.sequence * heads
        lane = lane + pairs.head if heads > 1 else lane
        rows = self.senders.flatten(0, 2)
        first = size * torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
        known = (first + rows).flatten()  # ascending
        wanted = (lane * num_receivers + pairs.receiver) * size + pairs.sender
        place = torch.searchsorted(known, wanted).clamp(max=known.shape[0] - 1)
        return known[place] == wanted

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        if self.senders is None:
            return All().listed(sizes, device)
        _, _, num_receivers, width = self.senders.shape
        low = (width * torch.arange(num_receivers, device=device)).view(1, 1, -1, 1)
        number = (self.senders < self.num_senders).sum(-1, keepdim=True)
        return Senders(low.expand(number.shape), low + number, self.senders.flatten(2))


@dataclass(frozen=True, eq=False)
class ChosenOfList(Rule):
    """The same among the listed edges of a graph."""

    index: Index
    k: int | None
    limits: Rule

    def allow(self, pairs: Pairs) -> Tensor:
        assert isinstance(pairs, Listed), "a rule of layers on edges"
        allowed = self.limits.allow(pairs).expand(pairs.sender.shape)
        if self.k is None:
            return allowed
        values = self.index.of_pairs(pairs).detach().masked_fill(~allowed, -torch.inf)
        return allowed & pairs.highest(values, self.k)


def highest(values: Tensor, allowed: Tensor, k: int) -> Tensor:
    """The k largest of each row among the ``allowed`` (the others are -inf), of equal ones the
    first: their places in ascending order, and behind them the length of the row.
    """
    least = values.topk(k, dim=-1).values[..., -1:]
    above = (values > least) & allowed
    equal = (values == least) & allowed
    room = k - above.sum(-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(-1) <= room))
    length = values.shape[-1]
    place = torch.where(keep, torch.arange(length, device=values.device), length)
    return place.topk(k, dim=-1, largest=False).values.sort(-1).values
