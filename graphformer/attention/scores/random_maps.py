"""Queries and keys by maps that are drawn once and never trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphformer.attention.scores.own_maps import OwnMaps
from graphformer.errors import number


class RandomMaps(nn.Module, OwnMaps, name="random_maps"):
    r"""``s_ij = <Q x_i, K x_j> / sqrt(d)`` with frozen Gaussian ``Q`` and ``K`` (*Deconstructing
    attention*, arXiv 2510.11602, its random form): what is trained is what messages carry.

    They are buffers, saved with the model, drawn with the mean ``mean / sqrt(hidden_size)`` and the
    standard deviation ``1 / sqrt(hidden_size)``.

    Args:
        mean: in standard deviations; 0 for the plain form, another for random features with a
            mean.
        hidden_size, query_size, kv_size, sender_size: widths of the receivers' input, of all
            queries and keys, of the senders' input; None: those of the layer.
    """

    maps_q: Tensor
    maps_k: Tensor

    def __init__(
        self,
        mean: float = 0.0,
        hidden_size: int | None = None,
        query_size: int | None = None,
        kv_size: int | None = None,
        *,
        sender_size: int | None = None,
    ) -> None:
        super().__init__()
        self.mean = float(number("mean", mean))
        if hidden_size is None or kv_size is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.register_buffer("maps_q", torch.empty(hidden_size, query_size or hidden_size))
        self.register_buffer("maps_k", torch.empty(sender_size or hidden_size, kv_size))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        for one in (self.maps_q, self.maps_k):
            nn.init.normal_(one, self.mean * len(one) ** -0.5, len(one) ** -0.5)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        return split(receivers @ self.maps_q), split(senders @ self.maps_k)
