"""Group normalization of attention weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.errors import require_known, whole


class NormalizeWeights(nn.Module, Sparsifier, name="normalize_weights"):
    r"""Weights with mean 0 and variance 1, then scaled and shifted head by head: group
    normalization of an attention map.

    .. math:: w_{ij} \mapsto \gamma_h (w_{ij} - \mu) / \sqrt{\sigma^2 + 10^{-5}} + \beta_h

    with mean and variance over the edges into a receiver (``over="receiver"``). Every candidate is
    an edge.

    ``over="map"`` takes them over all ``num_receivers * num_senders`` pairs of a lane, forbidden
    ones counting as 0, as the paper's code does. Then later tokens and padding change what earlier
    tokens get: it is there to compare with that code, not to train with.

    Args:
        num_heads: heads, each with its own scale and shift; None: those of the layer.
        over: ``"receiver"`` or ``"map"``.
        then: a sparsifier for the normalized weights.
    """

    reweighs = True

    def __init__(
        self,
        num_heads: int | None = None,
        over: Literal["receiver", "map"] = "receiver",
        *,
        then: Sparsifier | None = None,
    ) -> None:
        super().__init__()
        require_known("over", over, ("receiver", "map"))
        self.over, self.then = over, then
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        whole("num_heads", num_heads)
        self.weight, self.bias = (
            nn.Parameter(torch.ones(num_heads)),
            nn.Parameter(torch.zeros(num_heads)),
        )

    def reset_own_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return torch.ones_like(weights, dtype=torch.bool)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        if self.over == "receiver":
            total, size = pairs.sum, pairs.count().clamp(min=1).to(weights.dtype)
            mean = total(weights) / size
            variance = total((weights - mean).square()) / size
        else:
            total = pairs.lane_sum
            size = weights.new_tensor(float(max(pairs.num_receivers * pairs.num_senders, 1)))
            mean = total(weights) / size
            missing = size - total(torch.ones_like(weights))
            variance = (total((weights - mean).square()) + missing * mean.square()) / size
        scale, shift = pairs.of_head(self.weight), pairs.of_head(self.bias)
        return (weights - mean) * (variance + 1e-5).rsqrt() * scale + shift

    def extra_repr(self) -> str:
        heads = self.arguments()["num_heads"]
        return f"{'all' if heads is None else heads} heads, over={self.over!r}"
