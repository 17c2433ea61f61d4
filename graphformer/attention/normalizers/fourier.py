"""Weights as a trained Fourier series of the scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import whole


class Fourier(nn.Module, Normalizer, name="fourier"):
    r"""KArAt in its scalar form (arXiv 2503.10632, eq. 5): each pair for itself,

    .. math:: w_{ij} = a_{h0} + \sum_{m=1}^{M} a_{hm} \cos(m s_{ij}) + b_{hm} \sin(m s_{ij}).

    Weights may be negative and do not sum to 1. The constant starts at 0 and the others are drawn
    with the standard deviation ``1 / sqrt(M)``. The modular form of the paper maps whole rows,
    whose length would then be fixed.

    Args:
        num_frequencies: M.
        num_heads: H; None: those of the layer.
    """

    def __init__(self, num_frequencies: int = 3, num_heads: int | None = None) -> None:
        super().__init__()
        whole("num_frequencies", num_frequencies)
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.constant = nn.Parameter(torch.empty(whole("num_heads", num_heads)))
        self.cosine = nn.Parameter(torch.empty(num_heads, num_frequencies))
        self.sine = nn.Parameter(torch.empty(num_heads, num_frequencies))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.constant)
        for one in (self.cosine, self.sine):
            nn.init.normal_(one, std=one.shape[1] ** -0.5)

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        out = pairs.of_head(self.constant).to(scores.dtype)
        # one frequency at a time: a pair then needs no M numbers
        for m, (cosine, sine) in enumerate(
            zip(self.cosine.unbind(1), self.sine.unbind(1), strict=True), 1
        ):
            cosine, sine = (pairs.of_head(one).to(scores.dtype) for one in (cosine, sine))
            out = out + cosine * (m * scores).cos() + sine * (m * scores).sin()
        return out
