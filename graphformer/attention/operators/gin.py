"""GIN: each head is a graph isomorphism network on its own attention graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.operators.base import Operator
from graphformer.attention.operators.head_mlp import ACTIVATIONS, HeadMLP, mlp_width
from graphformer.errors import number, probability, require_known, strict_flags, whole


class GINOperator(Operator, name="gin"):
    r"""``out_i = MLP_h(z_i)`` with ``z_i = (self_weight + eps_h) x_i + sum_j w_ij x_j`` for each
    head h.

    The diagonal of attention already holds the node itself, so ``self_weight`` is 0 as in the
    paper's code. For graphs without self-loops set it to 1: that is GIN's own ``(1 + eps) x_i``
    (arXiv 1810.00826, eq. 4.1).

    With ``residual`` it is ``out_i = z_i + dropout(MLP_h(z_i))``: the sum reaches the output by a
    linear way too. With ``train_eps=False`` epsilon stays as it starts, as in PyG's GINConv unless
    asked for otherwise; a state dict holds it either way. ``activation`` is that of the MLPs, a
    name of :data:`~graphformer.attention.operators.head_mlp.ACTIVATIONS`.
    """

    reductions = ("sum",)
    eps: Tensor

    @strict_flags
    def __init__(
        self,
        num_heads: int | None = None,
        dim: int | None = None,
        mlp_ratio: float = 0.5,
        *,
        eps: float = 0.0,
        self_weight: float = 0.0,
        dropout: float = 0.0,
        norm: bool = True,
        norm_eps: float = 1e-6,
        residual: bool = False,
        train_eps: bool = True,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        require_known("activation", activation, tuple(ACTIVATIONS))
        number("norm_eps", norm_eps, least=0.0)
        self.initial_eps, self.self_weight = number("eps", eps), number("self_weight", self_weight)
        self.residual, self.dropout = residual, probability("dropout", dropout)
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the sizes of a layer
        whole("num_heads", num_heads)
        whole("dim", dim)
        start = torch.full((num_heads,), float(eps))
        if train_eps:
            self.eps = nn.Parameter(start)
        else:
            self.register_buffer("eps", start)
        self.mlp = HeadMLP(
            num_heads,
            dim,
            mlp_width(mlp_ratio, dim),
            dim,
            norm=norm,
            dropout=0.0 if residual else dropout,
            eps=norm_eps,
            activation=activation,
        )

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.eps, self.initial_eps)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        z = (self.self_weight + self.eps).view(-1, 1, 1) * own + reduced["sum"]
        out = self.mlp(z)
        return z + F.dropout(out, self.dropout, self.training) if self.residual else out

    def extra_repr(self) -> str:
        given = self.arguments()
        switches = ", residual=True" * self.residual + ", train_eps=False" * (
            not given["train_eps"]
        )
        if given["activation"] != "silu":
            switches += f", activation={given['activation']!r}"
        return f"self_weight={self.self_weight}" + switches
