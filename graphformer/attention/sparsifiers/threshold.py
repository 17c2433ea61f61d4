"""Edges above a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.errors import number, strict_flags


@strict_flags
@dataclass(frozen=True)
class Threshold(Sparsifier, name="threshold"):
    """Keep ``w_ij > tau``. With softmax weights a row keeps fewer than ``1 / tau`` edges.

    Weights of softmax, sigmoid and relu are never negative, so a tau below 0 cuts nothing: it is
    for weights that may be (identity, differential), and has to be meant, with ``signed=True``.
    """

    tau: float
    renormalize: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        hint = (
            "; give sparsify=None to keep every candidate, or signed=True for weights that may be "
            "negative (identity, differential)"
        )
        number("tau", self.tau, least=-math.inf if self.signed else 0.0, hint=hint)

    @property
    def bound(self) -> float:
        return self.tau

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return weights > self.tau
