"""The reference's threshold modes as sparsifiers of this library."""

from __future__ import annotations

import math

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.sparsifiers.reweigh import straight_through
from graphformer.errors import require_known, strict_flags

CURVE_OF_MODE = {
    "silu": "silu",
    "relu": "relu",
    "softplus": "softplus",
    "sharp_softplus": "sharp_softplus",
    "sigmoid_elementwise": "sigmoid",
    "flowthreshold": "flow",
    "binary": "binary",
    "silu+binary": "silu_plus_binary",
    "silu_below_binary_above": "silu_below_one_above",
    "relu_below_binary_above": "relu_below_one_above",
    "softplus_below_binary_above": "softplus_below_one_above",
}
MODES = ("none", *CURVE_OF_MODE, "top_k", "scaled_topk_causal_4d")
"""xgpt's threshold modes, by its names."""


@strict_flags
def threshold_spec(
    mode: str,
    tau: float = 0.2,
    *,
    beta: float = 10.0,
    scale: float = 1.0,
    fraction: float = 0.1,
    trainable: bool = False,
) -> dict[str, object] | None:
    """A threshold mode in plain values, for :func:`graphformer.attention.sparsifiers.from_spec`;
    ``None`` for ``"none"``.

    The two top-k modes become one: a fraction of each row's own candidates. The reference's
    ``top_k`` takes a fraction of the total length, so that a prefix gets another answer than the
    full sequence; ``scaled_topk_causal_4d`` leaves out the token itself, and fills up with edges
    below tau.
    """
    require_known("threshold mode", mode, MODES)
    if mode == "none":
        return None
    if mode in ("top_k", "scaled_topk_causal_4d"):
        keep = {"name": "top_fraction", "fraction": fraction}
        return {
            "name": "reweigh",
            "curve": "binary",
            "tau": 0.0 if mode == "top_k" else tau,
            "keep": keep,
        }
    spec: dict[str, object] = {
        "name": "reweigh",
        "curve": CURVE_OF_MODE[mode],
        "tau": tau,
        "trainable": trainable,
    }
    if mode in ("sharp_softplus", "sigmoid_elementwise"):
        spec["beta"] = beta
    if mode == "silu+binary":
        spec["scale"] = scale
    return spec


class ScaledTopK(Sparsifier):
    """The reference's ``scaled_topk_causal_4d`` as it is: weight 1 for the
    ``max(1, ceil(fraction * i))`` largest predecessors of i.

    Weights below tau count as 0 but may still be chosen: here the earlier sender first, in the
    reference as chance has it.
    """

    reweighs = True

    def __init__(self, fraction: float, tau: float = 0.0) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
        self.fraction, self.tau = fraction, tau

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        before = (pairs.sender < pairs.position).expand(weights.shape)
        judged = weights.masked_fill(weights < self.tau, 0.0).masked_fill(~before, -math.inf)
        number = (pairs.position * self.fraction - 1e-9).ceil().clamp(min=1)
        return before & (pairs.rank(judged) < number)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return straight_through(weights)
