"""Edges between the tokens of a text in forms that send messages quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class Links:
    """One set of edges; receivers are the last ``N`` of ``Nk`` senders."""

    def messages(self, x: Tensor) -> Tensor:
        """What receivers get, ``[B, H, N, d]``, of what senders send, ``[B, H, Nk, d]``; 0 for a
        receiver without an edge.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Shifted(Links):
    """From the token ``steps`` places before. ``there``: bool ``[B or 1, N]``."""

    steps: int
    there: Tensor

    def messages(self, x: Tensor) -> Tensor:
        end = x.shape[2] - self.steps
        start = end - self.there.shape[1]
        moved = x[:, :, max(start, 0) : max(end, 0)]
        if start < 0:
            moved = F.pad(moved, (0, 0, self.there.shape[1] - moved.shape[2], 0))
        return torch.where(self.there[:, None, :, None], moved, 0)


@dataclass(frozen=True, eq=False)
class One(Links):
    """From one sender, int64 ``[B, N]``, where ``there``, bool ``[B, N]``."""

    sender: Tensor
    there: Tensor

    def messages(self, x: Tensor) -> Tensor:
        return rows_of(x, self.sender, self.there)


@dataclass(frozen=True, eq=False)
class Running(Links):
    """Means over lists: each token's list is one sender and the list of an earlier token, so its
    sum is made by pointer jumping, in as many rounds as the longest list has binary digits. What is
    added, and in which order, depends on the list alone: a prefix of a text gets the same bits.

    Attributes:
        sender, there: the newest sender of each token, ``[B, Nk]``.
        jumps: for each round the earlier token and whether there is one.
        count: ``[B, Nk]``, the lengths of the lists, at least 1.
        num_receivers: N.
    """

    sender: Tensor
    there: Tensor
    jumps: Sequence[tuple[Tensor, Tensor]]
    count: Tensor
    num_receivers: int

    def messages(self, x: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision cannot add up
        total = rows_of(x.to(exact), self.sender, self.there)
        for before, there in self.jumps:
            total = total + rows_of(total, before, there)
        mean = total / self.count[:, None, :, None].to(exact)
        return mean[:, :, x.shape[2] - self.num_receivers :].to(x.dtype)


@dataclass(frozen=True, eq=False)
class Several(Links):
    """From those where ``there``, bool ``[B, N, Nk]``, is true, their sum or mean: for few
    receivers, and for masks of pairs, which have that size.
    """

    there: Tensor
    mean: bool

    def messages(self, x: Tensor) -> Tensor:
        # A token that sends nothing may hold anything, NaN too.
        x = torch.where(self.there.any(1)[:, None, :, None], x, 0)
        exact = torch.promote_types(x.dtype, torch.float32)
        there = self.there.to(exact)
        total = there.unsqueeze(1) @ x.to(exact)
        if self.mean:
            total = total / there.sum(-1).clamp(min=1)[:, None, :, None]
        return total.to(x.dtype)


def rows_of(x: Tensor, place: Tensor, there: Tensor) -> Tensor:
    """``x[b, :, place[b, i]]``, 0 where not ``there``."""
    batch, heads, senders, dim = x.shape
    # one row a token: torch adds up rows in the backward pass much faster than single numbers
    rows = x.transpose(1, 2).reshape(batch * senders, heads * dim)
    first = torch.arange(batch, device=x.device).unsqueeze(1) * senders
    found = rows.index_select(0, (place + first).reshape(-1)).view(*place.shape, heads, dim)
    return torch.where(there[:, :, None, None], found, 0).transpose(1, 2)
