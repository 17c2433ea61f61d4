"""A trained mask of zeros and ones, and the schedule of how many are zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphformer.errors import number


class ConcreteMask(nn.Module):
    r"""A mask over units, each kept or cut.

    .. math::
        z = \sigma\big((\log u - \log(1 - u) + m) / T\big), \qquad m = m_0 + g\, \theta

    with u uniform in (0, 1) in each call: the relaxed Bernoulli variable with logits m (binary
    concrete, arXiv 1611.00712; Gumbel-sigmoid, arXiv 1611.01144). While it trains, a unit that is
    kept has z and one that is cut 0; else, and in training once the mask is :attr:`hard`, 1 and 0.
    So a fresh mask changes nothing outside training.

    Args:
        shape: of the units; ``()`` for one.
        temperature: T. start: :math:`m_0`.
        gain: g. :math:`\theta` starts at 0, where weight decay draws it, and AdamW moves it by
            about the learning rate in a step, so m by g times that.

    Attributes:
        theta: :math:`\theta`, the parameter. kept: bool, a buffer. hard: bool, a buffer.

    Shape: called without arguments, or with the unscaled ``m_0`` of each unit; the units' values.
    """

    kept: Tensor
    hard: Tensor

    def __init__(
        self,
        shape: Sequence[int] = (),
        *,
        temperature: float = 0.5,
        start: float = 4.0,
        gain: float = 100.0,
    ) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0.0)
        self.start, self.gain = number("start", start), number("gain", gain, above=0.0)
        self.theta = nn.Parameter(torch.zeros(tuple(shape)))
        self.register_buffer("kept", torch.ones(tuple(shape), dtype=torch.bool))
        self.register_buffer("hard", torch.zeros((), dtype=torch.bool))

    def logits(self, weight: Tensor | None = None) -> Tensor:
        """m. Of weights, :math:`m_0` goes by their size: ``start * |w| / mean |w|``."""
        start: Tensor | float = self.start
        if weight is not None:
            size = weight.detach().abs()
            start = self.start * size / size.mean().clamp(min=torch.finfo(size.dtype).tiny)
        return start + self.gain * self.theta

    def forward(self, weight: Tensor | None = None) -> Tensor:
        """The units' values; of a ``weight`` with one unit for each entry."""
        hard = self.kept.to(self.theta.dtype)
        if not self.training:
            return hard
        u = torch.rand_like(self.theta).clamp(min=torch.finfo(self.theta.dtype).tiny)
        u = u.clamp(max=1 - torch.finfo(self.theta.dtype).eps)
        relaxed = hard * ((u.logit() + self.logits(weight)) / self.temperature).sigmoid()
        # where it is hard the gradient is 0 and not missing, as several processes need it
        return torch.where(self.hard, hard, relaxed)


class MaskedWeight(ConcreteMask):
    """A weight times its mask, as a parametrization of torch has it."""

    def forward(self, weight: Tensor | None = None) -> Tensor:
        assert weight is not None
        return weight * super().forward(weight).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def cubic_sparsity(step: int, target: float, begin: int, steps: int) -> float:
    """``target (1 - (1 - (step - begin) / steps)^3)``, 0 before ``begin`` and ``target`` from
    ``begin + steps`` on: quick while there is much to spare, slow at the end (arXiv 1710.01878).
    """
    if step < begin:
        return 0.0
    if step >= begin + steps:
        return target
    return target * (1 - (1 - (step - begin) / steps) ** 3)


def smallest(logits: Tensor, count: int) -> Tensor:
    """Bool: which are among the ``count`` smallest; of equal ones the later."""
    flat = logits.detach().flatten()
    order = flat.argsort(descending=True, stable=True)
    cut = torch.zeros_like(flat, dtype=torch.bool)
    cut[order[len(flat) - count :]] = True
    return cut.view(logits.shape)
