"""Plain attention: the weighted sum of what the senders send."""

from __future__ import annotations

from torch import Tensor

from graphformer.attention.operators.base import Operator


class SumOperator(Operator, name="sum"):
    """``out_i = sum_j w_ij x_j``."""

    reductions = ("sum",)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return reduced["sum"]
