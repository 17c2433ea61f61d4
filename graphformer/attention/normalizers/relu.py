"""Rectified scores as weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed


@dataclass(frozen=True)
class ReLU(Normalizer, name="relu"):
    """``w_ij = max(s_ij, 0)``. Pairs of weight 0 stay edges unless a sparsifier drops them:
    ``Threshold(0.0)``.
    """

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        return scores.relu()
