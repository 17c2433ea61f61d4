"""Queries and keys that know where a token stands, and not which one it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import number, whole


class Positions(nn.Module, Score, name="positions"):
    r"""``s_hij = <R_i u_h, R_j w_h> / sqrt(d)``: one trained query and key a head, turned by rotary
    positions. What a head looks at depends on the distance alone; values are trained as
    ever (*Deconstructing attention*, arXiv 2510.11602: weights from positions, none from tokens).

    With :math:`d / 2` frequencies :math:`\omega_f = \theta^{-2f/d}` it is

    .. math:: s_{hij} = \sum_f a_{hf} \cos(\omega_f (i - j)) + b_{hf} \sin(\omega_f (i - j))

    with ``a`` and ``b`` trained in the place of u and w, which they are the products of. A cache
    keeps one number a token in the place of keys. Where nodes have no order, in a layer on edges,
    the distance is that of their numbers.

    Args:
        theta: of the frequencies.
        num_heads, dim: heads, and d, the width of one; None: the layer's.
    """

    projects = False
    reads_hidden = False

    def __init__(
        self, theta: float = 10000.0, num_heads: int | None = None, dim: int | None = None
    ) -> None:
        super().__init__()
        self.theta = float(number("theta", theta, above=0.0))
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        sizes = whole("num_heads", num_heads), (whole("dim", dim) + 1) // 2
        self.cosine, self.sine = (nn.Parameter(torch.empty(sizes)) for _ in range(2))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        for one in (self.cosine, self.sine):
            nn.init.normal_(one, std=one.shape[1] ** -0.5)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        heads = len(self.cosine)
        q = q.new_zeros(()).expand(q.shape[0], heads, q.shape[2], 1)
        return q, k.new_zeros(k.shape[0], 1, k.shape[2], 1)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        count = self.cosine.shape[1]
        places = torch.arange(
            1 - pairs.num_receivers, max(pairs.num_senders, 1), device=q.device, dtype=torch.float64
        )
        steps = torch.arange(count, device=q.device, dtype=torch.float64)
        angle = places.unsqueeze(-1) * self.theta ** (-steps / count)  # [distances, frequencies]
        table = self.cosine.to(q.dtype) @ angle.cos().to(q.dtype).T
        table = table + self.sine.to(q.dtype) @ angle.sin().to(q.dtype).T
        found = table[pairs.head, pairs.distance + (pairs.num_receivers - 1)]
        return found.expand(pairs.shape)
