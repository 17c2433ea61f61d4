"""One step of Sparse-GIN, with a map for each head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadLinear(nn.Module):
    """A linear map for each head, ``[B, H, N, in_features]`` to ``[B, H, N, out_features]``; drawn
    as ``nn.Linear`` draws its own.
    """

    def __init__(self, num_heads: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_heads, 1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) == 1:  # one product of matrices instead of one for each sequence
            return F.linear(x, self.weight[0].t(), self.bias[0, 0])
        return x @ self.weight + self.bias

    def extra_repr(self) -> str:
        heads, width, out = self.weight.shape
        return f"{heads} heads, {width} -> {out}"


class GINLayer(nn.Module):
    r"""One step a head: :math:`z_i = (s + \epsilon) x_i + m_i`, then
    ``linear2(act(norm(linear1(z)))) + z``, or ``act(linear(z))``.
    """

    def __init__(
        self, num_heads: int, dim: int, hidden: int | None, norm: bool, self_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.self_weight = self_weight
        self.eps = nn.Parameter(torch.zeros(num_heads))
        self.linear1 = HeadLinear(num_heads, dim, dim if hidden is None else hidden)
        self.linear2 = None if hidden is None else HeadLinear(num_heads, hidden, dim)
        self.norm_weight = (
            nn.Parameter(torch.ones(num_heads, 1, hidden)) if norm and hidden is not None else None
        )
        self.norm_bias = (
            nn.Parameter(torch.zeros(num_heads, 1, hidden)) if norm and hidden is not None else None
        )

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.eps)
        self.linear1.reset_parameters()
        if self.linear2 is not None:
            self.linear2.reset_parameters()
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)

    def forward(self, own: Tensor, message: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """The receivers' own features and what reached them, both ``[B, H, Nq, dim]``."""
        z = (self.self_weight + self.eps).to(own.dtype).view(-1, 1, 1) * own + message
        hidden = self.linear1(z)
        if self.linear2 is None:
            return act(hidden)
        if self.norm_weight is not None and self.norm_bias is not None:
            # The variance of half precision overflows early, so it is taken in float32.
            exact = F.layer_norm(
                hidden.to(torch.promote_types(hidden.dtype, torch.float32)), hidden.shape[-1:]
            )
            hidden = (exact * self.norm_weight + self.norm_bias).to(hidden.dtype)
        return self.linear2(act(hidden)) + z
