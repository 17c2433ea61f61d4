"""Slot 2, score: a logit for each candidate pair. One method, one file."""

from __future__ import annotations

from torch import Tensor

from graphformer.attention.scores.additive import AdditiveScore
from graphformer.attention.scores.alibi import ALiBi
from graphformer.attention.scores.base import Score, per_head
from graphformer.attention.scores.decay import Decay
from graphformer.attention.scores.differential import Differential, DifferentialScoring
from graphformer.attention.scores.distance_bias import DistanceBias
from graphformer.attention.scores.dot import ScaledDotProduct
from graphformer.attention.scores.each_head import PerHeadScore
from graphformer.attention.scores.echo import Echo
from graphformer.attention.scores.forgetting import Forgetting
from graphformer.attention.scores.gatv2 import GATv2
from graphformer.attention.scores.grid_bias import GridBias
from graphformer.attention.scores.learned_query import LearnedQuery
from graphformer.attention.scores.pairwise import Pairwise, PairwiseScoring
from graphformer.attention.scores.positions import Positions
from graphformer.attention.scores.qk_norm import NormedDot
from graphformer.attention.scores.query_network import QueryNetwork
from graphformer.attention.scores.random_maps import RandomMaps
from graphformer.attention.scores.ssmax import ScalableDot

__all__ = [
    "ALiBi",
    "AdditiveScore",
    "Decay",
    "Differential",
    "DifferentialScoring",
    "DistanceBias",
    "Echo",
    "Forgetting",
    "GATv2",
    "GridBias",
    "LearnedQuery",
    "NormedDot",
    "Pairwise",
    "PairwiseScoring",
    "PerHeadScore",
    "Positions",
    "QueryNetwork",
    "RandomMaps",
    "ScalableDot",
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
