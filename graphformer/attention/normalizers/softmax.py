"""Softmax, the usual normalizer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed


@dataclass(frozen=True)
class Softmax(Normalizer, name="softmax"):
    """``w_ij = exp(s_ij) / sum_j' exp(s_ij')``."""

    is_softmax = True

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.softmax(scores)
