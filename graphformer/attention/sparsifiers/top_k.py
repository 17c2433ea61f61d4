"""A fixed number of edges for each row."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.errors import strict_flags


@strict_flags
@dataclass(frozen=True)
class TopK(Sparsifier, name="top_k"):
    """Keep the ``k`` largest weights of each row (all of them where a row has fewer candidates); of
    equal ones the earlier sender.

    Which of two weights is larger is decided by their last digit. Scores that know no places give
    repeated tokens the same weight but for rounding, which a cache may round otherwise: what such a
    pair of senders has in common comes out alike, and not what further steps have made of each.
    """

    k: int
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, numbers.Integral) or isinstance(self.k, bool) or self.k < 1:
            raise ValueError(
                "k must be a positive integer (edges per row, independent of the length), got "
                f"{self.k!r}"
            )

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.highest(weights, self.k)
