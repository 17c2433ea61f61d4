"""Scores as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed


@dataclass(frozen=True)
class Identity(Normalizer, name="identity"):
    """``w_ij = s_ij``; weights may be negative."""

    is_identity = True

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        return scores
