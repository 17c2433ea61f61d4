"""Rectified scores as weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import strict_flags


@strict_flags
@dataclass(frozen=True)
class ReLU(Normalizer, name="relu"):
    """``w_ij = max(s_ij, 0)``, with ``by_count`` divided by the row's number of candidates, so that
    sums of long rows are as large as those of short ones (arXiv 2309.08586). Pairs of weight 0 stay
    edges unless a sparsifier drops them: ``Threshold(0.0)``.
    """

    by_count: bool = False

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        weights = scores.relu()
        if not self.by_count:
            return weights
        return weights / pairs.count().clamp(min=1).to(weights.dtype)
