"""Sigmoid attention: every pair for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import number


@dataclass(frozen=True)
class Sigmoid(Normalizer, name="sigmoid"):
    """``w_ij = sigmoid(s_ij + bias)``; ``bias="count"`` is ``-log`` of the row's number of
    candidates (arXiv 2409.04431).
    """

    bias: float | Literal["count"] = 0.0

    def __post_init__(self) -> None:
        if self.bias != "count":
            number("bias", self.bias, hint="; or 'count'")

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        if self.bias == "count":
            return (scores - pairs.count().clamp(min=1).to(scores.dtype).log()).sigmoid()
        return (scores + self.bias).sigmoid()
