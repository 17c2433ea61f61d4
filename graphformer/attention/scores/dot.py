"""The scaled dot product."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import (
    Score,
    as_tensor,
    check_factors,
    factors,
    per_head,
    times,
)


@dataclass(frozen=True, eq=False)
class ScaledDotProduct(Score, name="dot"):
    """``s_ij = sharpening * scale * <q_i, k_j>`` (arXiv 2501.02393, section 2.1: a trainable
    sharpening before the softmax).

    Both factors go into the queries, before any masking, so that a masked pair stays masked
    whatever the sharpening. Half precision is scored in float32.

    Attributes:
        scale: ``1 / sqrt(d)`` unless given.
        sharpening: a number (a trainable scalar), one a head, or a tensor that broadcasts to
            ``[B, H, Nq, 1]``.
    """

    scale: float | None = None
    sharpening: Tensor | float = 1.0
    scaled = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharpening", as_tensor(self.sharpening))
        check_factors(self.scale, self.sharpening)

    def sharpened(self, sharpening: Tensor | float) -> Score:
        return times(self, sharpening)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the factors into q: afterwards a score is a plain dot product."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        sharpening = per_head("sharpening", self.sharpening, q.shape, rows=True)
        return q.to(dtype) * factors(self.scale, sharpening, q.shape[-1], dtype), k.to(dtype)

    def prepared(self) -> Score:
        return ScaledDotProduct()

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.dot(q, k)

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]]:
        return [(1.0, q, k)]

    def in_half(
        self, q: Tensor, k: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor, float] | None:
        if isinstance(self.sharpening, Tensor) or self.sharpening != 1.0:
            if precision == torch.float16:  # they may lie beyond its largest number, 65504
                return None
            q = q * per_head("sharpening", self.sharpening, q.shape, rows=True)
        return q, k, 1.0 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
