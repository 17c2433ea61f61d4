"""A score for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score


@dataclass(frozen=True)
class PerHeadScore(Score, name="per_head"):
    """Head ``h`` is scored by the ``h``-th score. Each kind is computed for all heads, so a layer
    costs as much as its kinds together.

    Scores of several maps, and those that bring projections of their own, cannot stand in it.
    """

    scores: Sequence[Score]
    scaled = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", tuple(self.scores))
        for one in self.scores:
            if not isinstance(one, Score):
                raise TypeError(
                    f"PerHeadScore takes a score for each head, got {type(one).__name__}"
                )
            if one.alone or not one.projects:
                raise ValueError(
                    f"{type(one).__name__} is not one map of the layer's queries and keys; it "
                    "stands alone"
                )

    @property
    def cost(self) -> int:  # type: ignore[override]
        return max(one.cost for one in self.scores)

    def sharpened(self, sharpening: Tensor | float) -> Score:
        return PerHeadScore(
            tuple(one.sharpened(sharpening) if one.scaled else one for one in self.scores)
        )

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.scores) != q.shape[1]:
            raise ValueError(
                f"PerHeadScore holds {len(self.scores)} scores, but there are {q.shape[1]} heads"
            )
        return super().prepare(q, k)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        out: Tensor | None = None
        for score in dict.fromkeys(self.scores):
            heads = [h for h, one in enumerate(self.scores) if one is score]
            found = score.prepared().logits(*score.prepare(q, k), pairs)
            here = torch.isin(pairs.head, torch.tensor(heads, device=q.device))
            out = found if out is None else torch.where(here, found, out)
        assert out is not None
        return out
