"""GIN-attention: each head is a graph isomorphism network on its own attention graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from graphformer.attention.normalizers import Normalizer
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import number, whole
from graphformer.nn.attention import GraphAttention, Operator, Options, head_dim
from graphformer.nn.mlp import HeadMLP, probability


def mlp_width(mlp_ratio: float, dim: int) -> int:
    """``int(gamma * d)``, checked."""
    width = int(number("mlp_ratio", mlp_ratio, above=0.0) * dim)
    if width < 1:
        raise ValueError(
            f"mlp_ratio {mlp_ratio} leaves no hidden unit in a head of width {dim}: it must be at "
            f"least {1 / dim:.3g}"
        )
    return width


class GINOperator(Operator):
    r"""``out_i = MLP_h(z_i)`` with ``z_i = (self_weight + eps_h) x_i + sum_j w_ij x_j`` for each
    head h.

    The diagonal of attention already holds the node itself, so ``self_weight`` is 0 as in the
    paper's code. For graphs without self-loops set it to 1: that is GIN's own ``(1 + eps) x_i``
    (arXiv 1810.00826, eq. 4.1).

    With ``residual`` it is ``out_i = z_i + dropout(MLP_h(z_i))``: the sum reaches the output by a
    linear way too. With ``train_eps=False`` epsilon stays as it starts, as in PyG's GINConv unless
    asked for otherwise; a state dict holds it either way.
    """

    reductions = ("sum",)
    eps: Tensor

    def __init__(
        self,
        num_heads: int,
        dim: int,
        mlp_ratio: float,
        *,
        eps: float = 0.0,
        self_weight: float = 0.0,
        dropout: float = 0.0,
        norm: bool = True,
        norm_eps: float = 1e-6,
        residual: bool = False,
        train_eps: bool = True,
    ) -> None:
        super().__init__()
        whole("num_heads", num_heads)
        whole("dim", dim)
        number("norm_eps", norm_eps, least=0.0)
        self.initial_eps, self.self_weight = number("eps", eps), number("self_weight", self_weight)
        self.residual, self.dropout = residual, dropout
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
        )

    def reset_parameters(self) -> None:
        nn.init.constant_(self.eps, self.initial_eps)
        self.mlp.reset_parameters()

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        z = (self.self_weight + self.eps).view(-1, 1, 1) * own + reduced["sum"]
        out = self.mlp(z)
        return z + F.dropout(out, self.dropout, self.training) if self.residual else out

    def extra_repr(self) -> str:
        fixed = not isinstance(self.eps, nn.Parameter)
        return (
            f"self_weight={self.self_weight}"
            + ", residual=True" * self.residual
            + ", train_eps=False" * fixed
        )


class GINAttention(GraphAttention):
    r"""GIN-attention (arXiv 2501.02393, section 2.1).

    .. math::
        A = \mathrm{softmax}(\alpha\, q k^\top / \sqrt{d}), \qquad
        \mathrm{out}_i = \mathrm{MLP}_h\Big((s + \epsilon_h)\, x_i
        + \sum_{(j \to i)} A_{ij} x_j\Big)

    with :math:`x` the hidden states cut into heads, :math:`\alpha` one trainable sharpening a
    layer, :math:`\epsilon_h` and an MLP for each head.

    Args:
        hidden_size: width of the hidden states, a multiple of ``num_heads``.
        num_heads: heads; each is one graph.
        num_kv_heads: key heads, each shared by a group of query heads; ``num_heads`` unless given.
        mlp_ratio: gamma, the MLP's hidden width over the head's width; ``int(gamma * head_dim)``
            units.
        sharpening: a trainable alpha that starts at 1 (or at the number given), or ``False``.
        sparsify: ``None``, ``gf.Threshold(tau)``, ``gf.TopK(k)``.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"`` or a normalizer.
        is_causal: senders at or before the receiver only.
        backend: who aggregates; naming one means that edges are built.
        executor: ``"auto"``, ``"flash"``, ``"stream"``, ``"dense"`` or ``"edges"``. Never changes
            the answer.
        eps: where epsilon starts.
        self_weight: 0 where attention holds the diagonal, 1 for graphs without self-loops (see
            :class:`GINOperator`).
        mlp_dropout: inside the heads' MLPs.
        mlp_norm_eps: added to the mean square in their norm.
        options: see :class:`~graphformer.nn.attention.Options`: the score, projections of values
            and outputs (neither here unless asked for), dropout on the weights, the layer's place
            in a cache.

    Shape: ``[B, N, hidden_size]`` to the same; see :meth:`GraphAttention.forward`.

    Raises:
        ValueError: heads that do not divide, an empty MLP, an unknown name. MissingExtra: a backend
            that is not installed.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 0.5,
        sharpening: bool | float = True,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        *,
        eps: float = 0.0,
        self_weight: float = 0.0,
        mlp_dropout: float = 0.0,
        mlp_norm_eps: float = 1e-6,
        **options: Unpack[Options],
    ) -> None:
        dim, _ = head_dim(hidden_size, num_heads, num_kv_heads)
        probability("mlp_dropout", mlp_dropout)
        number("mlp_norm_eps", mlp_norm_eps, least=0.0)
        super().__init__(
            GINOperator(
                num_heads,
                dim,
                mlp_ratio,
                eps=eps,
                self_weight=self_weight,
                dropout=mlp_dropout,
                norm_eps=mlp_norm_eps,
            ),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            sharpening=sharpening,
            sparsify=sparsify,
            normalize=normalize,
            is_causal=is_causal,
            backend=backend,
            executor=executor,
            **options,
        )
