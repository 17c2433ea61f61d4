"""Pairs of numbers in order, also where one number for a pair would not fit 64 bits."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2**63 - 1


def fits(rows: int, width: int) -> bool:
    """Whether ``row * width + column`` is below 2^63 for every pair."""
    return max(rows, 1) * max(width, 1) <= LARGEST


def order_of(first: Tensor, second: Tensor, rows: int, width: int) -> Tensor:
    """The stable order of pairs by ``first`` (below ``rows``), then ``second`` (below ``width``)."""
    if fits(rows, width):
        return torch.argsort(first * max(width, 1) + second, stable=True)
    order = torch.argsort(second, stable=True)  # one sort for each, because the key of a pair would wrap round
    return order[torch.argsort(first[order], stable=True)]


def unique_pairs(first: Tensor, second: Tensor, rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Different pairs in order, both numbers of each, and which of them every given pair is."""
    width = max(width, 1)
    if fits(rows, width):
        keys, place = torch.unique(first * width + second, return_inverse=True)
        return torch.div(keys, width, rounding_mode="floor"), keys % width, place
    names, renumbered = torch.unique(second, return_inverse=True)  # no more names than pairs, so that their keys do fit
    other_names, other = torch.unique(first, return_inverse=True)
    keys, place = torch.unique(other * len(names) + renumbered, return_inverse=True)
    return other_names[torch.div(keys, max(len(names), 1), rounding_mode="floor")], names[keys % max(len(names), 1)], place
