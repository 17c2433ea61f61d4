"""Numbers of edges at nodes, the order of their ends, and what weights hold."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.finite import readable


def refuse_nan(weight: Tensor) -> None:
    """NaN compares false with every threshold, so it would get lost without a word."""
    count = int(torch.isnan(weight.detach()).sum())
    if count:
        raise ValueError(f"weight holds {count} NaN among {weight.numel()} edges")


def degrees(index: Tensor, size: int) -> Tensor:
    """How often each of ``0..size - 1`` occurs, int64 ``[size]``."""
    if readable(index):
        return torch.bincount(index, minlength=size)
    # bincount looks for the largest number first, which an accelerator is waited for and a compiler
    # cannot know.
    return torch.zeros(size, dtype=torch.int64, device=index.device).index_add(
        0, index, torch.ones_like(index, dtype=torch.int64)
    )


def starts(degree: Tensor) -> Tensor:
    """Where each node's edges start, from the number of its edges: one entry more than nodes."""
    ends = torch.cumsum(degree, dim=0)
    return torch.cat((ends.new_zeros(1), ends))


def by_value(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Numbers ``[E]`` in the order of their values ``0..size - 1``, and where each value's start,
    ``[size + 1]``.
    """
    numbers = index.int() if size < 2**31 else index  # sorted twice as fast
    return numbers.argsort(stable=True), starts(degrees(index, size))


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``, with slope 1 at 0: where no weight is negative it is the weight itself, gradient and
    all.
    """
    return torch.where(weight < 0, -weight, weight)
