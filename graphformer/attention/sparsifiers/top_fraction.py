"""A share of each row's candidates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.errors import number, strict_flags


@strict_flags
@dataclass(frozen=True)
class TopFraction(Sparsifier, name="top_fraction"):
    """Keep the largest ``ceil(fraction * n_i)`` of a row's ``n_i`` candidates, at least one; of
    equal weights the earlier sender.

    The number grows with the row's own candidates and never with the total length: a causal row
    keeps what it keeps in a prefix.
    """

    fraction: float
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not 0 < number("fraction", self.fraction) <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        # In float64 and a little less, so that 0.3 * 10 is 3 and not the 4 that rounding up its
        # rounding error gives.
        number = (pairs.count().double() * self.fraction - 1e-9).ceil().clamp(min=1)
        return pairs.highest(weights, number)
