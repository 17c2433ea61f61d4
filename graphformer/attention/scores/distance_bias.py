"""A trained number for each range of distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import whole


class DistanceBias(nn.Module, Score, name="distance_bias"):
    r"""``s_hij = <q_i, k_j> / sqrt(d) + b_h[bucket(t_i - t_j)]`` (T5, arXiv 1910.10683, section
    2.1; buckets as in its published code).

    Half of the buckets are for senders before the receiver and at it, half for those after it. Of
    each half the first half has one distance each, the rest grow as logarithms up to
    ``max_distance``. The biases start at 0.

    Positions are places in the row of tokens; in a layer on edges they are the numbers of nodes.

    Args:
        num_buckets: of both directions together.
        max_distance: from which on all distances are one bucket.
        num_heads: H; None: those of the layer.
    """

    def __init__(
        self, num_buckets: int = 32, max_distance: int = 128, num_heads: int | None = None
    ) -> None:
        super().__init__()
        if whole("num_buckets", num_buckets) % 4:
            raise ValueError(
                f"num_buckets={num_buckets} must be a multiple of 4: two directions, each in "
                "single distances and ranges"
            )
        if whole("max_distance", max_distance) <= num_buckets // 4:
            raise ValueError(
                f"max_distance={max_distance} must be above num_buckets / 4 = {num_buckets // 4}, "
                "below which each distance has a bucket of its own"
            )
        self.num_buckets, self.max_distance = num_buckets, max_distance
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.bias = nn.Parameter(torch.zeros(whole("num_heads", num_heads), num_buckets))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def bucket(self, distance: Tensor) -> Tensor:
        """Int64, of the shape of ``distance``."""
        half, exact = self.num_buckets // 2, self.num_buckets // 4
        far = distance.abs()
        ratio = (far.clamp(min=exact).double() / exact).log() / math.log(self.max_distance / exact)
        large = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(far < exact, far, large) + half * (distance < 0).long()

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        dots = pairs.dot(q, k) * q.shape[-1] ** -0.5
        return dots + self.bias[pairs.head, self.bucket(pairs.distance)].to(dots.dtype)
