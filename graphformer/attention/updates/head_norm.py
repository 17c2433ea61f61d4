"""Heads of one size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import number, strict_flags


class HeadNorm(nn.Module, Update, name="head_norm"):
    r"""``out_hi <- g_h * out_hi / sqrt(mean(out_hi^2) + eps)``: each head's output is normed by
    itself before the heads are joined.

    What sums without softmax need, for their weights do not sum to 1: retention norms its heads so
    (arXiv 2307.08621, eq. 8), lightning attention (arXiv 2401.04658) and differential attention
    (arXiv 2410.05258, eq. 3) too. It looks at one node alone. The mean square is taken in float32.

    Args:
        eps: keeps a head that received nothing at 0.
        num_heads, dim: H and the width of one; None: those of the layer.
        maps: whether the layer's linear map over all heads follows.
    """

    reads_hidden = False

    @strict_flags
    def __init__(
        self,
        eps: float = 1e-6,
        num_heads: int | None = None,
        dim: int | None = None,
        *,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.eps, self.maps = float(number("eps", eps, above=0.0)), maps
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.weight = nn.Parameter(torch.ones(num_heads, dim))

    def reset_own_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        exact = out.to(torch.promote_types(out.dtype, torch.float32))
        size = (exact.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (exact * size).to(out.dtype) * self.weight.unsqueeze(1).to(out.dtype)
