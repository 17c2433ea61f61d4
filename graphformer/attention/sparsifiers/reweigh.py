r"""Slot 4, continued: what becomes of the weights of the kept edges.

A curve turns a weight into another, for instance :math:`w \mapsto \max(w - \tau, 0)`. It is applied
to edges, so a pair that is not allowed (padding, the future) stays without weight, whatever the
curve makes of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.attention.sparsifiers.curves import CURVES, straight_through
from graphformer.errors import number, require_known, strict_flags


class Reweigh(nn.Module, Sparsifier, name="reweigh"):
    r"""Kept edges get the weight :math:`f(w_{ij})`, with a threshold :math:`\tau` that may be
    trained.

    ======================== ================================================ ==================
    curve                    :math:`f(w)`                                     edges
    ======================== ================================================ ==================
    relu                     :math:`\max(w - \tau, 0)`                        :math:`w > \tau`
    binary                   1                                                :math:`w > \tau`
    relu_below_one_above     1 (another name of binary)                       :math:`w > \tau`
    silu                     :math:`\mathrm{silu}(w - \tau)`                  all candidates
    softplus                 :math:`\mathrm{softplus}(w - \tau)`              all candidates
    sharp_softplus           :math:`\mathrm{softplus}(\beta(w-\tau)) / \beta` all candidates
    sigmoid                  :math:`\sigma(\beta (w - \tau))`                 all candidates
    flow                     :math:`\sigma(5 w)\,\sigma(50 (w - \tau))`       all candidates
    silu_plus_binary         silu + scale * [w > tau]                         all candidates
    silu_below_one_above     1 above tau, silu below                          all candidates
    softplus_below_one_above 1 above tau, softplus below                      all candidates
    ======================== ================================================ ==================

    Where a curve is 1 the gradient is that of ``w - tau``: straight-through (arXiv 1308.3432). With
    ``straight_through=False`` it is 0 there, so queries and keys learn nothing from such edges. The
    smooth curves leave every candidate an edge and cost what a complete graph costs; ``keep`` makes
    them sparse.

    Args:
        curve: one of the names above, or a function of the weights ``[E]`` that uses no ``tau``.
        tau: the threshold, 0.2 unless given.
        beta: sharpness of ``sharp_softplus`` and ``sigmoid``, 10 unless given.
        scale: height of the step in ``silu_plus_binary``, 1 unless given.
        keep: a sparsifier that the edges must pass as well, judging the weights before the curve:
            ``Reweigh("binary", 0.0, keep=TopK(3))``.
        above: of the sigmoid, keep the edges whose new weight exceeds it: those of
            :math:`w > \tau + \mathrm{logit}(above) / \beta`, cut before any edge is made.
            ``Reweigh("sigmoid", 0.1, beta=10.0, above=0.6)`` on merged heads is the published
            Sparse-GIN's graph.
        trainable: make tau a parameter.
        straight_through: give the steps a gradient.

    Raises:
        ValueError: an unknown curve, a number that is not finite, or an argument that the curve
            does not read.

    Source: arXiv 2501.02393, section 2.1 and its code's threshold modes.
    """

    reweighs = True

    @strict_flags
    def __init__(
        self,
        curve: str | Callable[[Tensor], Tensor],
        tau: float | None = None,
        *,
        beta: float | None = None,
        scale: float | None = None,
        keep: Sparsifier | None = None,
        above: float | None = None,
        trainable: bool = False,
        straight_through: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(curve, str):
            require_known("curve", curve, CURVES)
        elif not callable(curve):
            raise TypeError(
                f"curve must be one of {', '.join(CURVES)} or a function of the weights, got "
                f"{curve!r}; what is cut before it is keep="
            )
        reads = ("tau", "trainable", *CURVES[curve].reads) if isinstance(curve, str) else ()
        given = {"tau": tau, "beta": beta, "scale": scale, "trainable": trainable or None}
        given |= {"straight_through": None if straight_through else False}
        for name, value in given.items():
            if value is not None and name not in reads:
                which = (
                    f"the curve {curve!r}"
                    if isinstance(curve, str)
                    else "a curve that is a function of the weights"
                )
                raise ValueError(f"{name}={value} is not read by {which}; leave it out")
        tau, beta, scale = (
            0.2 if tau is None else tau,
            10.0 if beta is None else beta,
            1.0 if scale is None else scale,
        )
        for name, value in (("tau", tau), ("beta", beta), ("scale", scale)):
            number(name, value)
        if beta == 0:
            raise ValueError("beta must not be 0: it divides")
        if above is not None and (curve != "sigmoid" or not 0 < above < 1 or beta <= 0):
            raise ValueError(
                f"above is for the rising sigmoid, and lies in (0, 1); got above={above}, "
                f"curve={curve!r}, beta={beta}. Elsewhere cut the weights before the curve: "
                "keep=gf.Threshold(...)"
            )
        self.curve, self.initial_tau, self.beta, self.scale = (
            curve,
            float(tau),
            float(beta),
            float(scale),
        )
        if keep is not None and keep.then is not None:
            raise ValueError(
                f"keep={type(keep).__name__}(then=...) cuts weights after it has changed them, "
                "and the curve reads them before: leave its then out"
            )
        self.kept_by = keep
        if isinstance(keep, nn.Module):  # under the name that saved models know
            self._modules["keep"] = self._modules.pop("kept_by")
        self.straight_through, self.above = straight_through, above
        self.tau = nn.Parameter(torch.tensor(self.initial_tau)) if trainable else self.initial_tau

    def reset_own_parameters(self) -> None:
        if isinstance(self.tau, nn.Parameter):
            nn.init.constant_(self.tau, self.initial_tau)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__("keep" if name == "kept_by" else name)

    @property
    def cut(self) -> Tensor | float | None:
        """Weights of so much and less are no edges, by the curve."""
        if self.above is not None:
            return self.tau + math.log(self.above / (1 - self.above)) / self.beta
        return self.tau if isinstance(self.curve, str) and CURVES[self.curve].cuts else None

    @property
    def bound(self) -> float | None:
        bounds = [] if self.cut is None else [float(torch.as_tensor(self.cut).detach())]
        if self.kept_by is not None:
            if self.kept_by.bound is None:
                return None
            bounds.append(self.kept_by.bound)
        return max(bounds, default=None)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        kept = torch.ones_like(weights, dtype=torch.bool)
        if self.kept_by is not None:
            kept = self.kept_by.keep(weights, pairs)
        return kept if self.cut is None else kept & (weights > self.cut)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        weights = weights if self.kept_by is None else self.kept_by.refine(weights, pairs)
        if not isinstance(self.curve, str):
            return self.curve(weights)
        one = straight_through if self.straight_through else torch.ones_like
        curve = CURVES[self.curve].apply
        return curve(weights - self.tau, weights, self.beta, self.scale, one)

    def extra_repr(self) -> str:
        trained = ", trainable" if isinstance(self.tau, nn.Parameter) else ""
        above = "" if self.above is None else f", above={self.above:g}"
        return (
            f"{self.curve}, tau={float(torch.as_tensor(self.tau).detach()):g}{trained}{above}"
            + (f", keep={self.kept_by}" if self.kept_by is not None else "")
        )
