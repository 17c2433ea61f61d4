"""A penalty that grows with the distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import strict_flags, whole


def slopes(num_heads: int) -> Tensor:
    """``2^(-8 h / H)`` for h = 1..H, ``[H]``."""
    return 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)


class ALiBi(nn.Module, Score, name="alibi"):
    r"""``s_hij = <q_i, k_j> / sqrt(d) - m_h |t_i - t_j|`` (arXiv 2108.12409, section 3), with
    ``m_h = 2^(-8 h / H)`` for the heads 1..H.

    Positions are places in the row of tokens; in a layer on edges they are the numbers of nodes.

    Args:
        num_heads: H; None: those of the layer.
        trained: whether the slopes are trained.
    """

    slopes: Tensor

    @strict_flags
    def __init__(self, num_heads: int | None = None, *, trained: bool = False) -> None:
        super().__init__()
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        start = slopes(whole("num_heads", num_heads))
        if trained:
            self.slopes = nn.Parameter(start)
        else:
            self.register_buffer("slopes", start)

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        self.slopes.copy_(slopes(len(self.slopes)))

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        dots = pairs.dot(q, k) * q.shape[-1] ** -0.5
        far = pairs.distance.abs().to(dots.dtype)
        return dots - pairs.of_head(self.slopes).to(dots.dtype) * far
