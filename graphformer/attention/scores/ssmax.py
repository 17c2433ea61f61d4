"""Scores that grow with the number of candidates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import number, whole


class ScalableDot(nn.Module, Score, name="ssmax"):
    r"""``s_hij = a_h log(n_i) <q_i, k_j> / sqrt(d)``, with ``n_i`` candidates in row i (scalable
    softmax, arXiv 2501.19399, eq. 3): a softmax of it stays as sharp in long rows as in short ones.

    Args:
        num_heads: H; None: those of the layer.
        scale: where each ``a_h`` starts; the paper's models end about 0.43.
    """

    def __init__(self, num_heads: int | None = None, scale: float = 0.43) -> None:
        super().__init__()
        self.initial_scale = float(number("scale", scale))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.scale = nn.Parameter(torch.full((whole("num_heads", num_heads),), self.initial_scale))

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.scale, self.initial_scale)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        dots = pairs.dot(q, k)
        size = pairs.count().clamp(min=1).to(dots.dtype).log() * q.shape[-1] ** -0.5
        return dots * size * pairs.of_head(self.scale).to(dots.dtype)
