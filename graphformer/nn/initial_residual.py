"""What a model's first layer was given, mixed into what a later layer is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.errors import number


class InitialResidual(nn.Module):
    r"""``a x + b x^(0)``, with two trained numbers (GCNII's initial residual, arXiv 2007.02133,
    where they are ``1 - alpha`` and ``alpha``).

    Args:
        strength: where ``b`` starts, and ``a`` at ``1 - strength``. 0: the model without; 0.1:
            GCNII's.

    Shape: ``[*, hidden]`` twice to the same.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = float(number("strength", strength))
        self.own, self.initial = (nn.Parameter(torch.empty(1)) for _ in range(2))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.own, 1 - self.strength)
        nn.init.constant_(self.initial, self.strength)

    reset_parameters = reset_own_parameters

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return self.own.to(x.dtype) * x + self.initial.to(x.dtype) * start

    def extra_repr(self) -> str:
        return f"strength={self.strength}"
