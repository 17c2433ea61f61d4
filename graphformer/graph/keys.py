"""Pairs of numbers in order, also where one number for a pair would not fit 64 bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 2**63 - 1


def numbers_of(keep: Tensor) -> Tensor:
    """Where ``keep`` (bool ``[E]``) is true; numbers go through. An accelerator is waited for once,
    and not for each tensor chosen.
    """
    return keep.nonzero().squeeze(-1) if keep.dtype == torch.bool else keep


def fits(rows: int, width: int) -> bool:
    """Whether ``row * width + column`` is below 2^63 for every pair."""
    return max(rows, 1) * max(width, 1) <= LARGEST


def pair_keys(first: Tensor, second: Tensor, rows: int, width: int) -> Tensor:
    """One number a pair, ``first * width + second``, for what looks pairs up.

    Raises:
        ValueError: a number for every pair would not fit 64 bits.
    """
    if not fits(rows, width):
        raise ValueError(
            f"pairs of {rows:,} and {width:,} nodes cannot be looked up by one 64-bit number each, "
            f"which reaches to about {math.isqrt(LARGEST):,} nodes: take smaller batches, or parts "
            "of the graph (PyG's NeighborLoader)"
        )
    return first * max(width, 1) + second


def split_keys(keys: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The pairs of :func:`pair_keys`: ``first``, ``second``."""
    width = max(width, 1)
    return torch.div(keys, width, rounding_mode="floor"), keys % width


def order_of(first: Tensor, second: Tensor, rows: int, width: int) -> Tensor:
    """The stable order of pairs by ``first`` (below ``rows``), then ``second`` (below
    ``width``).
    """
    if fits(rows, width):
        return torch.argsort(pair_keys(first, second, rows, width), stable=True)
    # one sort for each, because the key of a pair would wrap round
    order = torch.argsort(second, stable=True)
    return order[torch.argsort(first[order], stable=True)]


def unique_pairs(
    first: Tensor, second: Tensor, rows: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Different pairs in order, both numbers of each, and which of them every given pair is."""
    if fits(rows, width):
        keys, place = torch.unique(pair_keys(first, second, rows, width), return_inverse=True)
        return *split_keys(keys, width), place
    # no more names than pairs, so that their keys do fit
    names, renumbered = torch.unique(second, return_inverse=True)
    other_names, other = torch.unique(first, return_inverse=True)
    keys, place = torch.unique(other * len(names) + renumbered, return_inverse=True)
    other, renumbered = split_keys(keys, len(names))
    return other_names[other], names[renumbered], place
