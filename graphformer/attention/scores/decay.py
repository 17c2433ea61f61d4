"""Dot products that fade with the distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import whole


class Decay(nn.Module, Score, name="decay"):
    r"""``s_hij = lambda_h^|t_i - t_j| <q_i, k_j> / sqrt(d)``, for ``normalize="identity"``: the
    parallel form of retention and lightning attention (arXiv 2307.08621, eq. 5; 2401.04658).

    ``lambda_h = 1 - 2^(-5 - h)`` for the heads 0..H-1, as published for retention, and not trained.
    Its papers norm the heads' sums afterwards. In a causal text it takes linear time, by blocks
    (:mod:`graphformer.attention.executors.linear`).

    Args:
        num_heads: H; None: those of the layer.
    """

    rate: Tensor

    def __init__(self, num_heads: int | None = None) -> None:
        super().__init__()
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.register_buffer("rate", torch.empty(whole("num_heads", num_heads)))
        self.reset_own_parameters()

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        self.rate.copy_(1 - 2.0 ** -(5.0 + torch.arange(len(self.rate))))

    def fading(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return q * q.shape[-1] ** -0.5, k, self.rate.to(q.dtype).log()

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        dots = pairs.dot(q, k) * q.shape[-1] ** -0.5
        log = pairs.of_head(self.rate).to(dots.dtype).log()
        return dots * (log * pairs.distance.abs().to(dots.dtype)).exp()
