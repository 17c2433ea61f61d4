"""Slot 3, normalize: logits to weights, one receiver's row at a time.

Each normalizer has the same formula in two forms: ``rows`` for blocks ``[..., R, N]`` with a mask,
``edges`` for lists of candidate edges. A pair that is not allowed has weight exactly 0 and passes
no gradient, also in a row where nothing is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from graphformer.errors import number
from graphformer.graph import degrees


@runtime_checkable
class Normalizer(Protocol):
    def rows(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Scores ``[..., R, N]`` and a bool mask that broadcasts to them, to weights
        ``[..., R, N]``.
        """

    def edges(self, scores: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        """Scores ``[E]`` of candidate edges and their receivers to weights ``[E]``."""


@dataclass(frozen=True)
class Softmax:
    """``w_ij = exp(s_ij) / sum_j' exp(s_ij')``."""

    def rows(self, scores: Tensor, allowed: Tensor) -> Tensor:
        # The lowest finite number instead of -inf: a fully masked row is then uniform rather than
        # NaN, before it is set to 0.
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~allowed, lowest).softmax(-1).masked_fill(~allowed, 0.0)

    def edges(self, scores: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        top = scores.new_zeros(num_receivers).scatter_reduce(
            0, receivers, scores.detach(), "amax", include_self=False
        )
        exp = (scores - top[receivers]).exp()
        total = scores.new_zeros(num_receivers).index_add(0, receivers, exp)
        return exp / total[receivers]


@dataclass(frozen=True)
class Sigmoid:
    """``w_ij = sigmoid(s_ij + bias)``; ``bias="count"`` is ``-log`` of the row's number of
    candidates (arXiv 2409.04431).
    """

    bias: float | Literal["count"] = 0.0

    def __post_init__(self) -> None:
        if self.bias != "count":
            number("bias", self.bias, hint="; or 'count'")

    def rows(self, scores: Tensor, allowed: Tensor) -> Tensor:
        if self.bias == "count":
            scores = (
                scores
                - allowed.expand(scores.shape)
                .sum(-1, keepdim=True)
                .clamp(min=1)
                .to(scores.dtype)
                .log()
            )
        else:
            scores = scores + self.bias
        return scores.sigmoid().masked_fill(~allowed, 0.0)

    def edges(self, scores: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        if self.bias == "count":
            return (
                scores - degrees(receivers, num_receivers)[receivers].to(scores.dtype).log()
            ).sigmoid()
        return (scores + self.bias).sigmoid()


@dataclass(frozen=True)
class ReLU:
    """``w_ij = max(s_ij, 0)``. Pairs of weight 0 stay edges unless a sparsifier drops them:
    ``Threshold(0.0)``.
    """

    def rows(self, scores: Tensor, allowed: Tensor) -> Tensor:
        return scores.relu().masked_fill(~allowed, 0.0)

    def edges(self, scores: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return scores.relu()


@dataclass(frozen=True)
class Identity:
    """``w_ij = s_ij``; weights may be negative."""

    def rows(self, scores: Tensor, allowed: Tensor) -> Tensor:
        return scores.masked_fill(~allowed, 0.0)

    def edges(self, scores: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
        return scores


NAMED: dict[str, Normalizer] = {
    "softmax": Softmax(),
    "sigmoid": Sigmoid(),
    "relu": ReLU(),
    "identity": Identity(),
}


def resolve(value: str | Normalizer) -> Normalizer:
    """A normalizer from its name, or the value itself."""
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(
                f"unknown normalize {value!r}; known: {', '.join(NAMED)}, or a value with methods "
                "rows and edges"
            )
        return NAMED[value]
    if not (hasattr(value, "rows") and hasattr(value, "edges")):
        raise TypeError(
            "normalize must be a name or a value with methods rows and edges, got "
            f"{type(value).__name__}"
        )
    return value
