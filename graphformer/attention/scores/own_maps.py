"""Scores that are dot products of queries and keys of their own."""

from __future__ import annotations

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score


class OwnMaps(Score):
    """Base of scores ``<q_i, k_j> / sqrt(d)`` whose :meth:`of_hidden` makes q and k of the hidden
    states, in the place of the layer's projections. They run on flash.
    """

    projects = False

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = super().prepare(q, k)
        return q * q.shape[-1] ** -0.5, k

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.dot(q, k)

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]]:
        return [(1.0, q, k)]
