"""Normalizers with exact zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed


@dataclass(frozen=True)
class Sparsemax(Normalizer, name="sparsemax"):
    r"""The nearest point of the simplex (arXiv 1602.02068, eq. 2 and proposition 1):
    ``w_ij = max(s_ij - tau_i, 0)``, with the one ``tau_i`` for which the row sums to 1.

    Pairs of weight 0 stay edges unless a sparsifier drops them: ``Threshold(0.0)``. The support is
    found by bisection and the rest by its formula, so weights and gradients are exact. Cost: some
    25 sums over a row in float32, 55 in float64.
    """

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        z = scores - pairs.max(scores.detach())
        inside = support(z, pairs, power=1)
        count = pairs.sum(inside).clamp(min=1)
        tau = (pairs.sum(z * inside) - 1) / count
        return (z - tau).clamp(min=0) * inside


@dataclass(frozen=True)
class Entmax15(Normalizer, name="entmax15"):
    r"""Between softmax and sparsemax (arXiv 1905.05702, eq. 10 with alpha 1.5):
    ``w_ij = max(s_ij / 2 - tau_i, 0)^2``, with the one ``tau_i`` for which the row sums to 1.

    On its support of ``n`` pairs, with mean ``m`` and sum of squares ``v`` about it,
    ``tau = m - sqrt((1 - v) / n)`` (the paper's appendix C). As with :class:`Sparsemax` pairs of
    weight 0 stay edges, and both are exact.
    """

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        z = (scores - pairs.max(scores.detach())) / 2
        inside = support(z, pairs, power=2)
        count = pairs.sum(inside).clamp(min=1)
        mean = pairs.sum(z * inside) / count
        variance = pairs.sum((z - mean).square() * inside)
        # 0 alone, where one pair has all the weight, has no root with a gradient
        room = ((1 - variance) / count).clamp(min=torch.finfo(z.dtype).tiny)
        return (z - mean + room.sqrt()).clamp(min=0).square() * inside


@torch.no_grad()
def support(z: Tensor, pairs: Block | Listed, power: int) -> Tensor:
    """1 where ``z > tau``, else 0, with ``sum max(z - tau, 0)^power = 1`` in each row.

    ``z`` has the maximum 0 in a row, so tau lies between -1 and 0.
    """
    low = pairs.sum(torch.zeros_like(z)) - 1
    step = 1.0
    while step > torch.finfo(z.dtype).eps / 4:
        step /= 2
        enough = pairs.sum((z - low - step).clamp(min=0).pow(power)) >= 1
        low = torch.where(enough, low + step, low)
    return (z > low).to(z.dtype)
