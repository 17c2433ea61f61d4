"""Weights scaled by a trained function of the distance."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import check_slot
from graphformer.errors import number, require_known, whole

CURVES = {"power": 0.0, "exponential": -4.0}
"""Where the rates start unless said otherwise."""


class DistanceScaled(nn.Module, Normalizer, name="distance_scaled"):
    r"""``w_ij f_h(|i - j|)``: the weights of another normalizer, scaled by how far the sender
    stands from the receiver.

    .. math:: f_h(n) = (1 + n)^{-r_h} \quad\text{or}\quad f_h(n) = e^{-n \log(1 + e^{r_h})}

    with a trained rate for each head. The power starts at ``r = 0``, where nothing is scaled, and a
    rate below 0 gives distant senders more; the exponential never does. The scaled weights are not
    divided by their sum: a row tells how much of it is far away.

    f is a function of the distance alone. The published code divides by its largest value on the
    whole map, so that there a prefix gets another answer than in the full sequence (arXiv
    2501.02393, the code's ``use_distance_scaling``, which
    :func:`graphformer.compat.xgpt.construct_adjacency` reads).

    On given edges, whose nodes have no order, the distance is that of their numbers, as of every
    value that looks at positions.

    Args:
        inner: the normalizer, its name or its plain form.
        curve: ``"power"`` or ``"exponential"``.
        rate: where each r_h starts; None: 0 of the power, -4 of the exponential (a factor
            ``e^-0.018`` a token).
        num_heads: H; None: those of the layer.
    """

    def __init__(
        self,
        inner: Any = "softmax",
        curve: str = "power",
        rate: float | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        require_known("curve", curve, CURVES)
        self.inner, self.curve = check_slot("normalize", Normalizer, inner), curve
        self.__dict__["_given"]["inner"] = self.inner
        self.initial_rate = CURVES[curve] if rate is None else float(number("rate", rate))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.rate = nn.Parameter(torch.full((whole("num_heads", num_heads),), self.initial_rate))

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.rate, self.initial_rate)

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        rate = pairs.of_head(self.rate).to(scores.dtype)
        far = pairs.distance.abs().to(scores.dtype)
        fall = rate * far.log1p() if self.curve == "power" else F.softplus(rate) * far
        return self.inner.weights(scores, pairs) * (-fall).exp()

    def extra_repr(self) -> str:
        return f"curve={self.curve!r}, rate={self.initial_rate}"
