"""Sigmoid attention with a trained bias for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import number, whole


class SigmoidPerHead(nn.Module, Normalizer, name="sigmoid_per_head"):
    """``w_ij = sigmoid(s_ij + b_h)`` with a trained ``b_h`` (arXiv 2409.04431, section 3.2).

    A bias that starts far below 0 keeps the sum of a long row's weights small at the start.

    Args:
        num_heads: H; None: those of the layer.
        bias: where each b_h starts.
    """

    def __init__(self, num_heads: int | None = None, bias: float = 0.0) -> None:
        super().__init__()
        self.initial_bias = float(number("bias", bias))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.bias = nn.Parameter(torch.full((whole("num_heads", num_heads),), self.initial_bias))

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.bias, self.initial_bias)

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        return (scores + pairs.of_head(self.bias).to(scores.dtype)).sigmoid()
