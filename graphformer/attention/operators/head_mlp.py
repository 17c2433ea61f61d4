"""One MLP per head, run as two batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.errors import number, probability, require_known, strict_flags, whole

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": torch.relu,
    "gelu": F.gelu,
    "elu": F.elu,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
}
"""What stands between the maps of an MLP, by torch's names. ``"tanhshrink"``, ``h - tanh(h)``, is
flat at 0: small sums pass by the MLP.
"""


def mlp_width(mlp_ratio: float, dim: int) -> int:
    """``int(gamma * d)``, checked."""
    width = int(number("mlp_ratio", mlp_ratio, above=0.0) * dim)
    if width < 1:
        raise ValueError(
            f"mlp_ratio {mlp_ratio} leaves no hidden unit in a head of width {dim}: it must be at "
            f"least {1 / dim:.3g}"
        )
    return width


class HeadMLP(nn.Module):
    r"""A separate MLP for each head: ``Linear -> dropout -> RMSNorm -> SiLU -> Linear`` (arXiv
    2501.02393, eq. 8), or another activation.

    Args:
        num_heads: number of MLPs ``H``.
        in_features, hidden_features, out_features: widths of one MLP.
        bias: whether the linear maps have biases.
        norm: whether the hidden layer is RMS-normalised.
        dropout: probability, before the norm.
        eps: added to the mean square in the norm.
        activation: a name of :data:`ACTIVATIONS`.

    Shape: ``[B, H, N, in_features]`` to ``[B, H, N, out_features]``.
    """

    @strict_flags
    def __init__(
        self,
        num_heads: int,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        bias: bool = True,
        norm: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-6,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        sizes = {
            "num_heads": num_heads,
            "in_features": in_features,
            "hidden_features": hidden_features,
        }
        for name, value in (sizes | {"out_features": out_features}).items():
            whole(name, value)
        self.eps = number("eps", eps, least=0.0)
        self.dropout = probability("dropout", dropout)
        require_known("activation", activation, tuple(ACTIVATIONS))
        self.activation = activation
        self.weight1 = nn.Parameter(torch.empty(num_heads, in_features, hidden_features))
        self.bias1 = nn.Parameter(torch.empty(num_heads, 1, hidden_features)) if bias else None
        self.norm = nn.Parameter(torch.empty(num_heads, 1, hidden_features)) if norm else None
        self.weight2 = nn.Parameter(torch.empty(num_heads, hidden_features, out_features))
        self.bias2 = nn.Parameter(torch.empty(num_heads, 1, out_features)) if bias else None
        self.reset_own_parameters()

    def reset_parameters(self) -> None:
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """As ``nn.Linear``: uniform within ``1 / sqrt(fan_in)``; the norm starts at 1."""
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)
        if self.norm is not None:
            nn.init.ones_(self.norm)

    def forward(self, z: Tensor) -> Tensor:
        hidden = z @ self.weight1
        if self.bias1 is not None:
            hidden = hidden + self.bias1
        hidden = F.dropout(hidden, self.dropout, self.training)
        if self.norm is not None:
            # The mean square of half precision overflows at 256, so it is taken in float32.
            exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            exact = exact * (exact.square().mean(-1, keepdim=True) + self.eps).rsqrt()
            hidden = exact.to(hidden.dtype) * self.norm
        out = ACTIVATIONS[self.activation](hidden) @ self.weight2
        return out if self.bias2 is None else out + self.bias2

    def extra_repr(self) -> str:
        heads, inner, hidden = self.weight1.shape
        return (
            f"{heads} heads, {inner} -> {hidden} -> {self.weight2.shape[2]}, "
            f"bias={self.bias1 is not None}, norm={self.norm is not None}"
            + (f", activation={self.activation!r}" if self.activation != "silu" else "")
        )
