"""Softmax with one more logit, whose weight goes nowhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import number, strict_flags, whole


class SoftmaxSink(nn.Module, Normalizer, name="softmax_sink"):
    r"""``w_ij = exp(s_ij) / (exp(b_h) + sum_j' exp(s_ij'))``: a row may sum to less than 1.

    With ``b = 0`` for ever this is softmax1, "off by one" (E. Miller, *Attention is off by one*,
    2023); with a trained ``b_h`` it is the sink of gpt-oss.

    Args:
        num_heads: H; None: those of the layer.
        sink: where each b_h starts.
        trained: whether it is trained.
    """

    sink: Tensor

    @strict_flags
    def __init__(
        self, num_heads: int | None = None, sink: float = 0.0, *, trained: bool = True
    ) -> None:
        super().__init__()
        self.initial_sink = float(number("sink", sink))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        start = torch.full((whole("num_heads", num_heads),), self.initial_sink)
        if trained:
            self.sink = nn.Parameter(start)
        else:
            self.register_buffer("sink", start)

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.sink, self.initial_sink)

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        sink = pairs.of_head(self.sink).to(scores.dtype)
        top = torch.maximum(pairs.max(scores.detach()), sink.detach())
        exp = (scores - top).clamp(max=0).exp()  # only pairs that are no candidates lie above
        return exp / (pairs.sum(exp) + (sink - top).exp())
