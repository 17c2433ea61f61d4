"""Curves from a weight to another, elementwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

One = Callable[[Tensor], Tensor]
"""Ones in the place of ``w - tau``, with or without its gradient."""


@dataclass(frozen=True)
class Curve:
    """``apply(w - tau, w, beta, scale, one)``, elementwise.

    Attributes:
        cuts: the curve is 0 at tau and below, so such pairs are no edges.
        reads: which of ``beta``, ``scale`` and ``straight_through`` it reads.
    """

    apply: Callable[[Tensor, Tensor, float, float, One], Tensor]
    cuts: bool = False
    reads: tuple[str, ...] = ()


def straight_through(excess: Tensor) -> Tensor:
    """1, with the gradient of ``w - tau`` (arXiv 1308.3432): a step has none of its own."""
    return torch.ones_like(excess) + (excess - excess.detach())


_STEP = ("straight_through",)

CURVES: dict[str, Curve] = {
    "relu": Curve(lambda z, w, beta, scale, one: z.relu(), cuts=True),
    "silu": Curve(lambda z, w, beta, scale, one: F.silu(z)),
    "softplus": Curve(lambda z, w, beta, scale, one: F.softplus(z)),
    "sharp_softplus": Curve(
        lambda z, w, beta, scale, one: F.softplus(beta * z) / beta, reads=("beta",)
    ),
    "sigmoid": Curve(lambda z, w, beta, scale, one: (beta * z).sigmoid(), reads=("beta",)),
    "flow": Curve(lambda z, w, beta, scale, one: (5 * w).sigmoid() * (50 * z).sigmoid()),
    "binary": Curve(lambda z, w, beta, scale, one: one(z), cuts=True, reads=_STEP),
    "silu_plus_binary": Curve(
        lambda z, w, beta, scale, one: (
            F.silu(z) + scale * torch.where(z > 0, one(z), torch.zeros_like(z))
        ),
        reads=("scale", *_STEP),
    ),
    "silu_below_one_above": Curve(
        lambda z, w, beta, scale, one: torch.where(z > 0, one(z), F.silu(z)), reads=_STEP
    ),
    "relu_below_one_above": Curve(lambda z, w, beta, scale, one: one(z), cuts=True, reads=_STEP),
    "softplus_below_one_above": Curve(
        lambda z, w, beta, scale, one: torch.where(z > 0, one(z), F.softplus(z)), reads=_STEP
    ),
}
"""The curves of :class:`Reweigh` by name; it has their formulas."""
