"""A head's sum without what the node itself sends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import Operator
from graphformer.errors import whole


class ProjectedSelfOperator(Operator, name="projected_self"):
    r"""Exclusive self-attention (XSA): of ``y_i = sum_j w_ij v_j`` the part along the node's own
    ``v_i`` is taken away, as far as a trained number for each head says:

    .. math::
        \mathrm{out}_i = y_i - \tanh(a_h)\,
        \frac{\langle y_i, v_i \rangle}{\lVert v_i \rVert^2}\, v_i.

    ``a`` starts at 0, which is plain attention. It needs sums alone, so no edge is built.

    Args:
        num_heads: H; None: those of the layer.
    """

    reductions = ("sum",)

    def __init__(self, num_heads: int | None = None) -> None:
        super().__init__()
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
        return y - self.amount.tanh().view(-1, 1, 1).to(y.dtype) * along * own
