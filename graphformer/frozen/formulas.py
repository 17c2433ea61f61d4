"""The scores and rows of pre-trained models as slot values, for weights that have a gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphformer.attention import attention_graph
from graphformer.attention.normalizers import Normalizer, Softmax
from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores import ScaledDotProduct, Score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.frozen.capture import Attention
from graphformer.graph import AttentionGraph


@dataclass(frozen=True, eq=False)
class CappedScore(Score):
    """``s_ij = cap * tanh(scale <q_i, k_j> / cap) + b_ij``: the soft cap of Gemma 2
    (arXiv 2408.00118) and a bias ``[1 or B, 1 or H, Nq, Nk]`` (T5's relative positions). Either may
    be None.
    """

    scale: float | None
    cap: float | None
    bias: Tensor | None

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return ScaledDotProduct(self.scale).prepare(q, k)

    def prepared(self) -> Score:
        return replace(self, scale=1.0)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        logits = pairs.dot(q, k)
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        if self.bias is None:
            return logits
        sequence = pairs.sequence if len(self.bias) > 1 else torch.zeros_like(pairs.sequence)
        head = pairs.head if self.bias.shape[1] > 1 else torch.zeros_like(pairs.head)
        return logits + self.bias[sequence, head, pairs.receiver, pairs.sender].to(logits.dtype)


@dataclass(frozen=True, eq=False)
class SinkSoftmax(Normalizer):
    """``w_ij = exp(s_ij) / (exp(t_h) + sum_j' exp(s_ij'))``: one more logit ``t`` ``[H]`` a row,
    whose weight goes nowhere (gpt-oss).
    """

    sinks: Tensor

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        sink = pairs.of_head(self.sinks.to(scores.dtype))
        highest = torch.maximum(pairs.max(scores.detach()), sink.detach())
        exp = (scores - highest).exp()
        return exp / (pairs.sum(exp) + (sink - highest).exp())


def differentiable_graph(attention: Attention, sparsify: Sparsifier) -> AttentionGraph:
    """The graph of a model's weights, lanes ``(B, H)``; differentiable in what made its queries,
    keys, bias and sinks.
    """
    plain = attention.softcap is None and attention.bias is None
    score = (
        ScaledDotProduct(attention.scale)
        if plain
        else CappedScore(attention.scale, attention.softcap, attention.bias)
    )
    return attention_graph(
        attention.query,
        attention.key,
        attention_mask=attention.allowed,
        is_causal=attention.causal,
        score=score,
        normalize=Softmax() if attention.sinks is None else SinkSoftmax(attention.sinks),
        sparsify=sparsify,
    )
