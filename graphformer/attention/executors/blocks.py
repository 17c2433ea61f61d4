"""Blocks of whole rows: how the stream executor walks over the score matrix without ever holding
it.

A block is either several lanes with all their rows, or some rows of a single lane. So edges that
are read off block by block come in the order of their receivers, and nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.pairs import Block, Pairs
from graphformer.attention.problem import Problem

BLOCK_ELEMENTS = 2**18
"""Scores held at a time (1 MiB in float32). Measured on lengths 1024 to 4096: 2^17 to 2^19 differ
by a tenth, others are slower.
"""


def block_elements(num_senders: int) -> int:
    """Scores in a block of rows so long: 64 rows and more, because matrix products of fewer rows
    are slow.
    """
    return BLOCK_ELEMENTS * max(1, num_senders // 4096)


@dataclass(frozen=True)
class Stretch:
    """Rows of lanes, and the columns that the rule lets them reach."""

    lanes: range
    rows: range
    columns: range

    def within(self, limit: int) -> list[Stretch]:
        """The block itself, or lane by lane where it holds more scores than the limit."""
        if len(self.lanes) * len(self.rows) * len(self.columns) <= limit:
            return [self]
        return [Stretch(range(lane, lane + 1), self.rows, self.columns) for lane in self.lanes]


def walk(problem: Problem, together: int = 1, cost: int = 1) -> Iterator[Stretch]:
    """All blocks, in the order of their receivers; ``together`` lanes are never parted (1, or all
    the heads of a sequence).

    Rows of several lanes that are not parted may exceed the limit together: each lane's rows are
    within it. ``cost`` is how many numbers a pair needs, all lanes together; more than there are
    lanes make the blocks smaller.
    """
    batch, heads, num_receivers, num_senders = problem.sizes
    lanes, limit = batch * heads, block_elements(num_senders) * together // max(together, cost)
    if 0 in problem.sizes:
        return
    several = limit // (num_receivers * num_senders * together) * together
    if several:
        reach = problem.rule.reach(range(num_receivers), num_receivers, num_senders)
        for first in range(0, lanes, several):
            yield Stretch(range(first, min(first + several, lanes)), range(num_receivers), reach)
        return
    for lane in range(0, lanes, together):
        start = 0
        while start < num_receivers:
            rows, columns = _fitting(problem, start, limit)
            yield Stretch(range(lane, lane + together), rows, columns)
            start = rows.stop


def _fitting(problem: Problem, start: int, limit: int) -> tuple[range, range]:
    """As many rows from ``start`` on as fit the limit with what they reach; at least one. Causal
    rows reach further and further.
    """
    _, _, num_receivers, num_senders = problem.sizes
    rows = range(start, start + 1)
    columns = problem.rule.reach(rows, num_receivers, num_senders)
    size = max(1, limit // max(1, len(columns)))
    while size > 1:
        rows = range(start, min(start + size, num_receivers))
        columns = problem.rule.reach(rows, num_receivers, num_senders)
        if len(rows) * len(columns) <= limit:
            break
        size = len(rows) * 7 // 8
    else:
        rows = range(start, start + 1)
        columns = problem.rule.reach(rows, num_receivers, num_senders)
    return rows, columns


class Room:
    """Memory for one block, used again and again: fresh pages for every block would cost more than
    the sums on them.
    """

    def __init__(self, problem: Problem) -> None:
        size = max(block_elements(problem.sizes[3]), problem.sizes[3])
        self.scores = problem.q.new_empty(size)
        self.marks = torch.empty(size, dtype=torch.bool, device=problem.q.device)
        self.masks: dict[range, Mask] = {}  # by rows, those that are the same for every lane


@dataclass(frozen=True)
class Mask:
    """Where a block is forbidden.

    Attributes:
        parts: stretches of its columns and bool tensors that broadcast to
            ``[lanes, rows, stretch]``.
        rows_without_sender: a row may be forbidden as a whole.
    """

    parts: list[tuple[slice, Tensor]]
    rows_without_sender: bool

    def of_lane(self, index: int) -> Mask:
        """The mask of one of the block's lanes, counted from its first."""
        own = [
            (part, mask[index : index + 1] if mask.ndim == 3 and len(mask) > 1 else mask)
            for part, mask in self.parts
        ]
        return Mask(own, self.rows_without_sender)


def mask_of(problem: Problem, block: Stretch, room: Room) -> Mask:
    """The rule's mask of a block. Where no lane has its own it is made once for all of them."""
    if block.rows not in room.masks:
        parts = [(part, ~allowed) for part, allowed in masked_parts(problem, block)]
        _, _, num_receivers, num_senders = problem.sizes
        mask = Mask(parts, not problem.rule.free(block.rows, num_receivers, num_senders))
        if any(forbidden.ndim > 2 for _, forbidden in parts):
            return mask
        room.masks[block.rows] = mask
    return room.masks[block.rows]


def lane_queries(q: Tensor, block: Stretch) -> Tensor:
    """``[lanes, rows, d]`` of a contiguous tensor ``[B, H, Nq, d]``."""
    flat = q.flatten(0, 1)
    return flat[block.lanes.start : block.lanes.stop, block.rows.start : block.rows.stop]


def lane_keys(k: Tensor, block: Stretch, heads: int) -> Tensor:
    """``[lanes, columns, d]`` of a contiguous tensor ``[B, Hkv, Nk, d]``: each key head serves its
    group of lanes.
    """
    flat, kv_heads = k.flatten(0, 1), k.shape[1]
    columns = slice(block.columns.start, block.columns.stop)
    if kv_heads == heads:
        return flat[block.lanes.start : block.lanes.stop, columns]
    rows = [lane // heads * kv_heads + lane % heads // (heads // kv_heads) for lane in block.lanes]
    return flat[rows[0] : rows[0] + 1, columns] if len(rows) == 1 else flat[rows, columns]


def softmax_weights(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    block: Stretch,
    room: Room,
    mask: Mask | None = None,
    *,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``[lanes, rows, columns]``: softmax over each row, exactly 0 where the rule forbids; written
    into ``room``.

    ``softcap`` bounds the scores by ``softcap * tanh(score / softcap)``; ``bias``
    ``[1 or B, 1 or H, Nq, Nk]`` is added to them after that; ``sinks`` ``[H]`` is one more logit in
    each row of a head.
    """
    heads = problem.sizes[1]
    shape = (len(block.lanes), len(block.rows), len(block.columns))
    scores = room.scores[: shape[0] * shape[1] * shape[2]].view(shape)
    torch.bmm(lane_queries(q, block), lane_keys(k, block, heads).transpose(1, 2), out=scores)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if bias is not None:
        add_bias(scores, bias, block, heads)
    mask = mask_of(problem, block, room) if mask is None else mask
    lowest = torch.finfo(scores.dtype).min
    for part, forbidden in mask.parts:
        scores[..., part].masked_fill_(forbidden, lowest)
    if sinks is None:
        torch.softmax(scores, -1, out=scores)
    else:
        sink = sinks[[lane % heads for lane in block.lanes]].view(-1, 1, 1)
        highest = torch.maximum(scores.amax(-1, keepdim=True), sink)
        scores.sub_(highest).exp_()
        scores.div_(scores.sum(-1, keepdim=True) + (sink - highest).exp())
    if mask.rows_without_sender:  # such a row came out uniform
        for part, forbidden in mask.parts:
            scores[..., part].masked_fill_(forbidden, 0.0)
    return scores


def add_bias(scores: Tensor, bias: Tensor, block: Stretch, heads: int) -> None:
    """Add a block's part of ``bias [1 or B, 1 or H, Nq, Nk]`` to its scores
    ``[lanes, rows, columns]``; the bias is never repeated.
    """
    part = bias[:, :, block.rows.start : block.rows.stop, block.columns.start : block.columns.stop]
    first, last = block.lanes.start, block.lanes.stop
    if first % heads == 0 and last % heads == 0:
        own = part if len(part) == 1 else part[first // heads : last // heads]
        scores.unflatten(0, (-1, heads)).add_(own)
        return
    for i, lane in enumerate(block.lanes):
        own = part[0 if len(part) == 1 else lane // heads]
        scores[i].add_(own[0 if len(own) == 1 else lane % heads])


def masked_parts(problem: Problem, block: Stretch) -> Iterator[tuple[slice, Tensor]]:
    """The stretches of a block's columns where the rule has to be asked, and its answer,
    broadcastable to ``[lanes, rows, stretch]``.
    """
    _, _, num_receivers, num_senders = problem.sizes
    first, last = block.columns.start, block.columns.stop
    free = problem.rule.free(block.rows, num_receivers, num_senders)
    left, right = (first, min(free.start, last)), (max(free.stop, first), last)
    for start, stop in (left, right) if free else ((first, last),):
        if start < stop:
            yield (
                slice(start - first, stop - first),
                problem.rule.allow(pairs(problem, block, range(start, stop))),
            )


def allowed(problem: Problem, block: Stretch) -> Tensor:
    """Bool ``[lanes, rows, columns]``: the rule's answer for all pairs of a block."""
    answer = torch.ones(
        len(block.lanes),
        len(block.rows),
        len(block.columns),
        dtype=torch.bool,
        device=problem.q.device,
    )
    for part, mask in masked_parts(problem, block):
        answer[..., part] &= mask
    return answer


def pairs(problem: Problem, block: Stretch, columns: range) -> Pairs:
    """The pairs of a block's rows with some columns, shaped to broadcast to
    ``[lanes, rows, columns]``.
    """
    _, heads, num_receivers, num_senders = problem.sizes
    device = problem.q.device
    lane = torch.arange(block.lanes.start, block.lanes.stop, device=device).view(-1, 1, 1)
    return Pairs(
        torch.div(lane, heads, rounding_mode="floor"),
        lane % heads,
        torch.arange(block.rows.start, block.rows.stop, device=device).view(-1, 1),
        torch.arange(columns.start, columns.stop, device=device),
        num_receivers,
        num_senders,
    )


def pairs_of(problem: Problem, block: Stretch) -> Block:
    """A block as the slots see it: ``[b, H, rows, columns]``, or ``[lanes, 1, rows, columns]`` of
    lanes that are not all the heads of their sequences.
    """
    heads = problem.sizes[1]
    answer = allowed(problem, block)
    own = pairs(problem, block, block.columns)
    rows, columns = (slice(part.start, part.stop) for part in (block.rows, block.columns))
    first, last = block.lanes.start, block.lanes.stop
    whole = first % heads == 0 and last % heads == 0
    sequence, head = own.sequence.unsqueeze(1), own.head.unsqueeze(1)
    if whole:
        sequence, head = (
            sequence[::heads],
            torch.arange(heads, device=problem.q.device).view(-1, 1, 1),
        )
    return Block(
        sequence,
        head,
        own.receiver,
        own.sender,
        own.num_receivers,
        own.num_senders,
        answer.unflatten(0, (-1, heads)) if whole else answer.unsqueeze(1),
        slice(first // heads, (last - 1) // heads + 1),
        rows,
        columns,
    )


def hits(keep: Tensor) -> Tensor:
    """Flat indices of the true entries. Where few are true, eight at a time: a quarter of the time
    of ``nonzero`` and less.
    """
    flat = keep.reshape(-1)
    eights = flat.numel() // 8
    # What a sparsifier of a user's own returns may be a part of another tensor, which cannot be
    # read eight at a time.
    if keep.is_cuda or eights == 0 or not flat.is_contiguous() or flat.storage_offset() % 8:
        return flat.nonzero().squeeze(1)
    groups = flat[: eights * 8].view(torch.int64).nonzero().squeeze(1)
    inside = flat[: eights * 8].view(-1, 8)[groups]
    found = (groups.unsqueeze(1) * 8 + torch.arange(8))[inside]
    rest = flat[eights * 8 :].nonzero().squeeze(1) + eights * 8
    return torch.cat((found, rest)) if rest.numel() else found


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed columns of each row; a row without any is 0."""
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(-1).masked_fill(~allowed, 0.0)
