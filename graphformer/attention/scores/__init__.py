"""Slot 2, score: a logit for each candidate pair. One method, one file."""

from __future__ import annotations

from torch import Tensor

from graphformer.attention.scores.additive import AdditiveScore
from graphformer.attention.scores.base import Score, per_head
from graphformer.attention.scores.differential import Differential, DifferentialScoring
from graphformer.attention.scores.dot import ScaledDotProduct
from graphformer.attention.scores.each_head import PerHeadScore
from graphformer.attention.scores.echo import Echo
from graphformer.attention.scores.gatv2 import GATv2
from graphformer.attention.scores.pairwise import Pairwise, PairwiseScoring

__all__ = [
    "AdditiveScore",
    "Differential",
    "DifferentialScoring",
    "Echo",
    "GATv2",
    "Pairwise",
    "PairwiseScoring",
    "PerHeadScore",
    "ScaledDotProduct",
    "Score",
    "choose_score",
    "per_head",
]


def choose_score(score: Score | None, scale: float | None, sharpening: Tensor | float) -> Score:
    """The score given, or the scaled dot product; not half of each."""
    if score is None:
        return ScaledDotProduct(scale, sharpening)
    if not isinstance(score, Score):
        raise TypeError(
            "score must be a Score such as gf.attention.Differential(...), got "
            f"{type(score).__name__}"
        )
    if scale is not None or isinstance(sharpening, Tensor) or sharpening != 1.0:
        raise ValueError(
            "scale and sharpening belong to the dot product: give them to the score itself, "
            f"{type(score).__name__}(...)"
        )
    return score
