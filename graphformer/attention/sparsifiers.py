"""Slot 4, sparsify: which weights stay as edges, one receiver's row at a time.

A kept weight keeps its value; with ``renormalize=True`` the kept weights of a row are divided by their sum. Sparsifiers combine
with ``&`` (an edge stays if both keep it). None of them looks at the total length, so a prefix keeps the edges of the full sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Sparsifier:
    """Base of the sparsifiers; one of your own overrides :meth:`rows` and :meth:`edges`."""

    renormalize: bool

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        """Weights ``[..., R, N]`` and a mask that broadcasts to them, to bool ``[..., R, N]``: the kept pairs."""
        raise NotImplementedError

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        """Weights ``[E]`` of candidate edges, sorted by receiver, to bool ``[E]``."""
        raise NotImplementedError

    def __and__(self, other: Sparsifier) -> Sparsifier:
        return Both(self, other)


@dataclass(frozen=True)
class Both(Sparsifier):
    """Edges that both sparsifiers keep; both judge the same weights."""

    first: Sparsifier
    second: Sparsifier

    @property
    def renormalize(self) -> bool:  # type: ignore[override]
        return self.first.renormalize or self.second.renormalize

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        return self.first.rows(weights, allowed) & self.second.rows(weights, allowed)

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return self.first.edges(weights, receivers, num_receivers) & self.second.edges(weights, receivers, num_receivers)


@dataclass(frozen=True)
class Threshold(Sparsifier):
    """Keep ``w_ij > tau``. With softmax weights a row keeps fewer than ``1 / tau`` edges."""

    tau: float
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.tau):
            raise ValueError(f"tau must be a finite number, got {self.tau}")

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        return (weights > self.tau) & allowed

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return weights > self.tau


@dataclass(frozen=True)
class TopK(Sparsifier):
    """Keep the ``k`` largest weights of each row (all of them where a row has fewer candidates); of equal ones the earlier sender."""

    k: int
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(f"k must be a positive integer (edges per row, independent of the length), got {self.k!r}")

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        ranked = weights.masked_fill(~allowed, -math.inf).sort(dim=-1, descending=True, stable=True).indices[..., : self.k]
        keep = torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, ranked, True)
        return keep & allowed

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        by_weight = weights.argsort(descending=True, stable=True)
        order = by_weight[receivers[by_weight].argsort(stable=True)]
        degree = torch.bincount(receivers, minlength=num_receivers)
        start = torch.cumsum(degree, 0) - degree
        rank = torch.arange(len(order), device=weights.device) - start[receivers[order]]
        return torch.zeros_like(weights, dtype=torch.bool).scatter_(0, order, rank < self.k)


def check(value: Sparsifier | None) -> Sparsifier | None:
    """The value itself, or TypeError with the remedy."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise TypeError(f"sparsify must be a sparsifier, got the number {value}; write sparsify=gf.Threshold({value})")
    if value is not None and not isinstance(value, Sparsifier):
        raise TypeError(f"sparsify must be None, gf.Threshold, gf.TopK or another Sparsifier, got {type(value).__name__}")
    return value
