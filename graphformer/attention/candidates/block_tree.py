"""Blocks of tokens in one call of a layer: where they begin, what they send, who sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.among_blocks import Intervals
from graphformer.attention.candidates.block_row import Row


@dataclass(frozen=True, eq=False)
class Tree:
    """Blocks, level by level.

    Attributes:
        starts: bool ``[B or 1, N]`` of each level and of texts: the tokens that begin a block.
        numbers: int64 ``[B or 1, N]``, the block of each token, in the order of the row.
        counts: of each level, the blocks that may be seen: not those that no token follows.
        tokens: of a block, level by level, where all have the same number.
    """

    row: Row
    starts: list[Tensor]
    numbers: list[Tensor]
    counts: list[int]
    tokens: list[int] | None

    def intervals(self, first: int) -> Intervals:
        """What each receiver sees, where the blocks are numbered from ``first`` on."""
        place = self.row.places().expand(self.row.batches, -1)
        lows = [torch.where(self.starts[0], place, 0).cummax(1).values]
        highs = [place + 1]
        for number, above, count in zip(self.numbers, self.starts[1:], self.counts, strict=True):
            lows.append(torch.where(above, number, 0).cummax(1).values + first)
            highs.append(number + first)
            first += count
        last = self.row.length - self.row.num_receivers
        low, high = (torch.stack(one, -1)[:, last:] for one in (lows, highs))
        return Intervals(low, high, self.row.keep, self.row.length)

    def pooled(self, x: Tensor, logits: Tensor | None) -> list[Tensor]:
        """Of each level the means over its blocks ``[B, H, count, d]``, of ``x`` ``[B, H, N, d]``,
        weighed by the softmax of ``logits`` ``[B, Hkv, N]``.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weigh = None
        if logits is not None:
            weigh = in_heads(logits.to(wide.dtype), x.shape[1]).unsqueeze(-1)
        found = []
        for level, count in enumerate(self.counts):
            if self.tokens is not None:
                block, total = (count, self.tokens[level]), count * self.tokens[level]
                parts = wide[:, :, :total].unflatten(2, block)
                if weigh is None:
                    mean = parts.mean(3)
                else:
                    mean = (parts * weigh[:, :, :total].unflatten(2, block).softmax(3)).sum(3)
            else:
                mean = self._scattered(wide, weigh, level, count)
            found.append(mean.to(x.dtype))
        return found

    def _scattered(self, x: Tensor, weigh: Tensor | None, level: int, count: int) -> Tensor:
        """Blocks of any length; what is in none goes to a last row that is cut off."""
        outside = ~self.row.real() | (self.numbers[level] >= count)
        index = self.numbers[level].masked_fill(outside, count).expand(len(x), -1)
        index = index.view(len(x), 1, -1, 1).expand(*x.shape[:3], 1)
        rows = (*x.shape[:2], count + 1, 1)
        share = x.new_ones(1).expand_as(index)
        if weigh is not None:
            top = x.new_zeros(rows).scatter_reduce(
                2, index, weigh.detach(), "amax", include_self=False
            )
            share = (weigh - top.gather(2, index)).exp()
        total = x.new_zeros(rows).scatter_add(2, index, share)
        part = x * share / total.gather(2, index)
        sums = x.new_zeros(*rows[:3], x.shape[3]).scatter_add(2, index.expand_as(x), part)
        return sums[:, :, :count]

    def places(self) -> list[Tensor]:
        """Where the blocks' last tokens stand ``[B or 1, count]``."""
        place = self.row.places().expand(self.row.batches, -1)
        found = []
        for number, count in zip(self.numbers, self.counts, strict=True):
            last = place.new_zeros(len(place), count + 1)
            inside = torch.where(self.row.real(), number.clamp(max=count), count)
            found.append(last.scatter_reduce(1, inside, place, "amax")[:, :count])
        return found


def tree_of(row: Row, sizes: Sequence[int | None]) -> Tree:
    """The blocks of these sizes."""
    given = iter(row.given(sum(one is None for one in sizes)))
    real = row.real()
    text = real & (real.cumsum(1) == 1) if row.texts is None else row.changes(row.texts)
    starts, finer = [], real
    for size in sizes:
        if size is None:
            finer = row.changes(next(given))
        else:
            number = finer.cumsum(1) - 1
            of_text = torch.where(text, number, 0).cummax(1).values
            finer = finer & ((number - of_text) % size == 0)
        starts.append(finer)
    starts.append(text)
    for level in reversed(range(len(sizes))):  # what ends a block ends those inside it
        starts[level] = starts[level] | starts[level + 1]
    numbers = [(one.cumsum(1) - 1).clamp(min=0) for one in starts[:-1]]
    fixed = [one for one in sizes if one is not None]
    if len(fixed) == len(sizes) and row.texts is None:
        tokens = [math.prod(fixed[: level + 1]) for level in range(len(fixed))]
        counts = [max(row.length - 1, 0) // one for one in tokens]
    else:
        tokens, counts = [], [int(one.max()) if one.numel() else 0 for one in numbers]
    return Tree(row, starts, numbers, counts, tokens if row.alike else None)


def in_heads(logits: Tensor, heads: int) -> Tensor:
    """``[B, Hkv, N]`` for another number of heads: repeated in a group, or the mean of one."""
    if heads < logits.shape[1]:
        return logits.unflatten(1, (heads, -1)).mean(2)
    return logits.repeat_interleave(heads // logits.shape[1], dim=1)
