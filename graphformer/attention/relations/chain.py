"""The tokens just before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.relations.base import Relation
from graphformer.attention.relations.links import Links, Shifted
from graphformer.attention.relations.tokens import Tokens
from graphformer.errors import whole


@dataclass(frozen=True)
class Chain(Relation, name="chain"):
    """Edges ``i - 1 -> i``, ..., ``i - k -> i``, one set for each distance: a causal convolution of
    each channel (Canon layers, Allen-Zhu 2025; as in arXiv 2312.00752).

    Args:
        k: how far back.
    """

    k: int = 3

    def __post_init__(self) -> None:
        whole("k", self.k)

    @property
    def channels(self) -> int:
        return self.k

    def edges(self, tokens: Tokens) -> Tensor:
        visible = tokens.visible()
        sender, receiver = tokens.places, tokens.receivers[:, None]
        return torch.stack(
            [visible & (sender == receiver - steps) for steps in range(1, self.k + 1)]
        )

    def links(self, tokens: Tokens) -> tuple[Links, ...]:
        return tuple(Shifted(steps, tokens.before(steps)[1]) for steps in range(1, self.k + 1))
