"""A head's sum without what the node itself sends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import Operator, inner_operator
from graphformer.errors import whole


class ProjectedSelfOperator(Operator, name="projected_self"):
    r"""Exclusive self-attention (XSA): of ``y_i = sum_j w_ij v_j`` the part along the node's own
    ``v_i`` is taken away, as far as a trained number for each head says:

    .. math::
        \mathrm{out}_i = y_i - \tanh(a_h)\,
        \frac{\langle y_i, v_i \rangle}{\lVert v_i \rVert^2}\, v_i.

    ``a`` starts at 0, which is plain attention. It needs sums alone, so no edge is built.

    With ``inner`` an operator of sums reads what remains in the place of the sum: ``"gin"`` is
    ``MLP_h(eps x_i + out_i)``.

    Args:
        num_heads: H; None: those of the layer.
        inner: an operator whose only reduction is the sum, its name or its plain form; None: the
            sum itself.
    """

    reductions = ("sum",)

    def __init__(self, num_heads: int | None = None, inner: Any = None) -> None:
        super().__init__()
        self.inner = None if inner is None else inner_operator(self, inner)
        if self.inner is not None and (self.inner.reads_edges or self.inner.reductions != ("sum",)):
            raise ValueError(
                f"operator='projected_self' hands a sum on, and inner={self.inner.name!r} needs "
                "more than a sum: take 'gin'"
            )
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.amount = nn.Parameter(torch.zeros(whole("num_heads", num_heads)))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.amount)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        y = reduced["sum"]
        size = own.square().sum(-1, keepdim=True)
        safe = torch.where(size == 0, torch.ones_like(size), size)
        along = (y * own).sum(-1, keepdim=True) / safe
        rest = y - self.amount.tanh().view(-1, 1, 1).to(y.dtype) * along * own
        return rest if self.inner is None else self.inner(own, {"sum": rest})
