"""A dot product of normed queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import number, whole


class NormedDot(nn.Module, Score, name="qk_norm"):
    r"""``s_hij = a_h sqrt(d) <q_i / |q_i|, k_j / |k_j|>`` (query-key normalization, arXiv
    2010.04245): how long queries and keys are says nothing, and no logit exceeds
    ``|a_h| sqrt(d)``.

    With ``a`` of 1, where it starts, these are the logits of RMS-normed queries and keys over
    ``sqrt(d)`` (arXiv 2302.05442, section 2, without the norm's gain). Rotary positions change no
    length, so it is the same before and after them. A query or key of 0 has logits of 0.

    Args:
        num_heads: H; None: those of the layer.
        scale: where each ``a_h`` starts.
    """

    def __init__(self, num_heads: int | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.initial_scale = float(number("scale", scale))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.scale = nn.Parameter(torch.full((whole("num_heads", num_heads),), self.initial_scale))

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.scale, self.initial_scale)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = super().prepare(q, k)
        scale = self.scale.to(q.dtype).view(-1, 1, 1) * q.shape[-1] ** 0.5
        return unit(q) * scale, unit(k)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.dot(q, k)

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]]:
        return [(1.0, q, k)]


def unit(x: Tensor) -> Tensor:
    """``x / |x|``; 0 stays 0, with a gradient of 0."""
    square = x.square().sum(-1, keepdim=True)
    zero = square == 0
    return x * torch.where(zero, 1.0, square).rsqrt().masked_fill(zero, 0.0)
