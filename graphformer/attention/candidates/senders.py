"""Which senders a row may see, listed without asking for all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Senders:
    """A list of senders for each receiver, as stretches of longer lists. It may hold more than a
    rule allows, never less.

    Attributes:
        low, high: int64 ``[B or 1, H or 1, Nq, P]``: P stretches a receiver, the places
            ``low <= place < high``.
        order: int64 ``[B or 1, H or 1, M]``, the sender at each place; None: the place itself.
        ordered: whether each row's senders are distinct and ascend.
    """

    low: Tensor
    high: Tensor
    order: Tensor | None = None
    ordered: bool = True

    @classmethod
    def between(cls, low: Tensor, high: Tensor, num_senders: int) -> Senders:
        """One stretch for each receiver ``[Nq]``, the same in every lane."""
        low, high = (one.clamp(0, num_senders).view(1, 1, -1, 1) for one in (low, high))
        return cls(low, high)

    def counts(self, batch: int, heads: int) -> Tensor:
        """int64 ``[B, H, Nq]``."""
        number = (self.high - self.low).clamp(min=0).sum(-1)
        return number.expand(batch, heads, -1)

    def of(self, lanes: range, rows: range, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lane, receiver and sender of each pair, ordered by these and distinct; int64 ``[E]``."""
        device = self.low.device
        lane = torch.arange(lanes.start, lanes.stop, device=device)
        low, high = (
            self._of_lanes(one, lane, heads)[:, rows.start : rows.stop]
            for one in (self.low, self.high)
        )
        length = (high - low).clamp(min=0)  # [L, R, P]
        row = torch.arange(length[..., 0].numel(), device=device)  # of all the lanes
        row = row.repeat_interleave(length.sum(-1).flatten())
        flat = length.flatten()
        first = flat.cumsum(0) - flat
        place = torch.arange(len(row), device=device) + (low.flatten() - first).repeat_interleave(
            flat
        )
        number = max(len(rows), 1)
        sender = place
        if self.order is not None:
            own = torch.div(row, number, rounding_mode="floor")
            sender = self._of_lanes(self.order, lane, heads)[own, place]
        if not self.ordered:
            width = int(sender.max()) + 1 if len(sender) else 1
            keys = torch.unique(row * width + sender)
            row, sender = torch.div(keys, width, rounding_mode="floor"), keys % width
        own = torch.div(row, number, rounding_mode="floor")
        return own + lanes.start, row % number + rows.start, sender

    @staticmethod
    def _of_lanes(t: Tensor, lane: Tensor, heads: int) -> Tensor:
        """``[B or 1, H or 1, ...]`` to ``[L, ...]``."""
        sequence = torch.div(lane, max(heads, 1), rounding_mode="floor")
        head = lane % max(heads, 1)
        return t[sequence if len(t) > 1 else 0 * sequence, head if t.shape[1] > 1 else 0 * head]

    def __or__(self, other: Senders) -> Senders:
        """What is in one of the two."""
        parts = [self._laid_out(), other._laid_out()]
        lead = [torch.broadcast_shapes(*(one.shape[:2] for one in part)) for part in parts]
        batch, heads = torch.broadcast_shapes(*lead)
        sizes = [int(part[2].shape[-1]) for part in parts]
        order = torch.cat([one[2].expand(batch, heads, -1) for one in parts], -1)
        ends = [
            torch.cat(
                (
                    parts[0][end].expand(batch, heads, -1, -1),
                    (parts[1][end] + sizes[0]).expand(batch, heads, -1, -1),
                ),
                -1,
            )
            for end in (0, 1)
        ]
        return Senders(ends[0], ends[1], order, ordered=False)

    def _laid_out(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.order is not None:
            return self.low, self.high, self.order
        most = int(self.high.max()) if self.high.numel() else 0
        places = torch.arange(max(most, 0), device=self.low.device)
        return self.low, self.high, places.view(1, 1, -1)


def by_head(lists: Sequence[Senders | None]) -> Senders | None:
    """Of the list for each head what belongs to that head; None where one is missing."""
    found = [one for one in lists if one is not None]
    if len(found) != len(lists) or not found:
        return None
    parts = [
        [t[:, head : head + 1] if t.shape[1] > 1 else t for t in one._laid_out()]
        for head, one in enumerate(found)
    ]
    most = max(one.low.shape[-1] for one in found)
    room = max(part[2].shape[-1] for part in parts)
    batch = max(len(t) for part in parts for t in part)
    fills = (most, most, room)
    joined = [
        torch.cat(
            [
                F.pad(part[i], (0, fills[i] - part[i].shape[-1])).expand(
                    batch, *part[i].shape[1:-1], fills[i]
                )
                for part in parts
            ],
            1,
        )
        for i in range(3)
    ]
    low, high, order = joined
    return Senders(low, high, order, all(one.ordered for one in found))
