"""Slot 4, sparsify: which weights stay as edges, one receiver's row at a time.

A kept weight keeps its value; with ``renormalize=True`` the kept weights of a row are divided by
their sum. Sparsifiers combine with ``&`` (an edge stays if both keep it). None of them looks at the
total length, so a prefix keeps the edges of the full sequence.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import number, require_known
from graphformer.graph import AttentionGraph, degrees


class Sparsifier:
    """Base of the sparsifiers; one of your own overrides :meth:`rows` and :meth:`edges`."""

    renormalize: bool = False
    reweighs: bool = False
    """Whether :meth:`refine` does more than ``renormalize`` says."""

    @property
    def bound(self) -> float | None:
        """A number such that exactly the allowed pairs of greater weight are kept; ``None`` where
        the rule is another one.
        """
        return None

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        """Weights ``[..., R, N]`` and a mask that broadcasts to them, to bool ``[..., R, N]``: the
        kept pairs.
        """
        raise NotImplementedError

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        """Weights ``[E]`` of candidate edges, sorted by receiver, to bool ``[E]``."""
        raise NotImplementedError

    def refine(self, graph: AttentionGraph) -> AttentionGraph:
        """What becomes of the kept edges: their weights divided by each receiver's sum, if
        ``renormalize`` says so.
        """
        return graph.renormalize() if self.renormalize else graph

    def __and__(self, other: Sparsifier) -> Sparsifier:
        return Both(self, other)


@dataclass(frozen=True)
class Both(Sparsifier):
    """Edges that both sparsifiers keep; both judge the same weights, and then the first refines
    them, then the second.
    """

    first: Sparsifier
    second: Sparsifier

    @property
    def renormalize(self) -> bool:  # type: ignore[override]
        return self.first.renormalize or self.second.renormalize

    @property
    def reweighs(self) -> bool:  # type: ignore[override]
        return self.first.reweighs or self.second.reweighs

    @property
    def bound(self) -> float | None:
        first, second = self.first.bound, self.second.bound
        return None if first is None or second is None else max(first, second)

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        return self.first.rows(weights, allowed) & self.second.rows(weights, allowed)

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return self.first.edges(weights, receivers, num_receivers) & self.second.edges(
            weights, receivers, num_receivers
        )

    def refine(self, graph: AttentionGraph) -> AttentionGraph:
        return self.second.refine(self.first.refine(graph))


@dataclass(frozen=True)
class Threshold(Sparsifier):
    """Keep ``w_ij > tau``. With softmax weights a row keeps fewer than ``1 / tau`` edges.

    Weights of softmax, sigmoid and relu are never negative, so a tau below 0 cuts nothing: it is
    for weights that may be (identity, differential), and has to be meant, with ``signed=True``.
    """

    tau: float
    renormalize: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        hint = (
            "; give sparsify=None to keep every candidate, or signed=True for weights that may be "
            "negative (identity, differential)"
        )
        number("tau", self.tau, least=-math.inf if self.signed else 0.0, hint=hint)

    @property
    def bound(self) -> float:
        return self.tau

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        return (weights > self.tau) & allowed

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return weights > self.tau


@dataclass(frozen=True)
class TopK(Sparsifier):
    """Keep the ``k`` largest weights of each row (all of them where a row has fewer candidates); of
    equal ones the earlier sender.
    """

    k: int
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, numbers.Integral) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(
                "k must be a positive integer (edges per row, independent of the length), got "
                f"{self.k!r}"
            )

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        ranked = (
            weights.masked_fill(~allowed, -math.inf)
            .sort(dim=-1, descending=True, stable=True)
            .indices[..., : self.k]
        )
        keep = torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, ranked, True)
        return keep & allowed

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return ranks(weights, receivers, num_receivers) < self.k


@dataclass(frozen=True)
class TopFraction(Sparsifier):
    """Keep the largest ``ceil(fraction * n_i)`` of a row's ``n_i`` candidates, at least one; of
    equal weights the earlier sender.

    The number grows with the row's own candidates and never with the total length: a causal row
    keeps what it keeps in a prefix.
    """

    fraction: float
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not 0 < number("fraction", self.fraction) <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def _number(self, candidates: Tensor) -> Tensor:
        # In float64 and a little less, so that 0.3 * 10 is 3 and not the 4 that rounding up its
        # rounding error gives.
        return (candidates.double() * self.fraction - 1e-9).ceil().clamp(min=1)

    def rows(self, weights: Tensor, allowed: Tensor) -> Tensor:
        order = weights.masked_fill(~allowed, -math.inf).argsort(
            dim=-1, descending=True, stable=True
        )
        number = self._number(allowed.expand(weights.shape).sum(-1, keepdim=True))
        within = torch.arange(weights.shape[-1], device=weights.device) < number
        return torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, order, within) & allowed

    def edges(self, weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        number = self._number(degrees(receivers, num_receivers))
        return ranks(weights, receivers, num_receivers) < number[receivers]


def ranks(weights: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
    """Each edge's place among its receiver's by falling weight, from 0; of equal weights the
    earlier edge first.
    """
    by_weight = weights.argsort(descending=True, stable=True)
    order = by_weight[receivers[by_weight].argsort(stable=True)]
    degree = degrees(receivers, num_receivers)
    start = torch.cumsum(degree, 0) - degree
    return torch.empty_like(order).scatter_(
        0, order, torch.arange(order.shape[0], device=weights.device) - start[receivers[order]]
    )


def elementwise(value: Sparsifier | None) -> bool:
    """Whether a kept weight keeps its value, or is divided by its receiver's sum as ``renormalize``
    says: then weights that are dropped can stay in their places as zeros.
    """
    if isinstance(value, Both):
        return elementwise(value.first) and elementwise(value.second)
    return value is None or (type(value).refine is Sparsifier.refine and not value.reweighs)


def trainable(value: Sparsifier | None) -> bool:
    """Whether it has parameters, which then need gradients."""
    if isinstance(value, Both):
        return trainable(value.first) or trainable(value.second)
    return isinstance(value, nn.Module) and any(True for _ in value.parameters())


def from_spec(spec: Mapping[str, Any], num_heads: int) -> Sparsifier:
    """A sparsifier from plain values, as a config file holds it: its name and its arguments,
    sparsifiers among them again as plain values.

    >>> keep = {"name": "top_k", "k": 3}
    >>> from_spec({"name": "reweigh", "curve": "binary", "tau": 0.0, "keep": keep}, num_heads=4)

    Names: ``threshold``, ``top_k``, ``top_fraction``, ``reweigh``, ``normalize_weights``.
    """
    from graphformer.attention.reweigh import NormalizeWeights, Reweigh

    makers: dict[str, Callable[..., Sparsifier]] = {
        "threshold": Threshold,
        "top_k": TopK,
        "top_fraction": TopFraction,
        "reweigh": Reweigh,
        "normalize_weights": partial(NormalizeWeights, num_heads),
    }
    arguments = {
        name: from_spec(value, num_heads) if isinstance(value, Mapping) else value
        for name, value in spec.items()
    }
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"a sparsifier's dictionary needs a name, one of {', '.join(makers)}; got {dict(spec)}"
        )
    require_known("sparsifier", name, makers)
    try:
        return makers[name](**arguments)
    except TypeError as error:
        raise ValueError(f"{dict(spec)} does not describe a sparsifier: {error}") from None


def check(value: Sparsifier | None) -> Sparsifier | None:
    """The value itself, or TypeError with the remedy."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise TypeError(
            f"sparsify must be a sparsifier, got the number {value}; write "
            f"sparsify=gf.Threshold({value})"
        )
    if value is not None and not isinstance(value, Sparsifier):
        raise TypeError(
            "sparsify must be None, gf.Threshold, gf.TopK or another Sparsifier, got "
            f"{type(value).__name__}"
        )
    return value
