"""A trained number for each offset on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import whole


class GridBias(nn.Module, Score, name="grid_bias"):
    r"""``s_hij = <q_i, k_j> / sqrt(d) + b_h[p_j - p_i]`` with ``p`` the places on a grid of one,
    two or three axes: the relative position bias of Swin (arXiv 2103.14030, eq. 4). Beside
    :class:`~graphformer.attention.candidates.Neighborhood` of the same shape it is that of blocks
    with halos (HaloNet, arXiv 2103.12731, whose biases are products with queries) and of
    neighbourhoods (NAT, arXiv 2204.07143, eq. 2).

    The biases start at 0. In a layer on edges nodes stand on the grid in the order of their
    numbers, grid after grid.

    Args:
        shape: sizes of the axes, of which tokens are the row-major order.
        num_heads: H; None: those of the layer.
    """

    def __init__(self, shape: Sequence[int], num_heads: int | None = None) -> None:
        super().__init__()
        self.shape = tuple(whole("shape", one) for one in shape)
        if not self.shape:
            raise ValueError("shape is empty: give the sizes of the grid, such as (8, 8)")
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        offsets = math.prod(2 * one - 1 for one in self.shape)
        self.bias = nn.Parameter(torch.zeros(whole("num_heads", num_heads), offsets))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        if pairs.num_senders % math.prod(self.shape):
            raise ValueError(
                f"shape={self.shape} has {math.prod(self.shape)} places, and there are "
                f"{pairs.num_senders} senders: give the shape of the grid"
            )
        offset = torch.zeros((), dtype=torch.int64, device=q.device)
        for axis, size in enumerate(self.shape):
            step = math.prod(self.shape[axis + 1 :])
            own, other = (
                torch.div(one, step, rounding_mode="floor") % size
                for one in (pairs.position, pairs.sender)
            )
            offset = offset * (2 * size - 1) + other - own + (size - 1)
        dots = pairs.dot(q, k) * q.shape[-1] ** -0.5
        return dots + self.bias[pairs.head, offset].to(dots.dtype)
