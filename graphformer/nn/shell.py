"""What the shell of tokens and that of edges have in common: a head's slots as parts of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphformer.attention.candidates import Rule
from graphformer.attention.head import Head
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.scores import Score
from graphformer.attention.slot import register_parts
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import number
from graphformer.graph import AttentionGraph


class Shell(nn.Module):
    """A layer around a head.

    Attributes:
        candidates, normalize, sparsify, operator: slots of the head.
        sharpening: trained factor of the scores ``[1]``, where there is one.
        initial_sharpening: where it starts.
    """

    candidates: Rule | None
    normalize: Normalizer
    sparsify: Sparsifier | None
    operator: Any
    sharpening: nn.Parameter | None
    initial_sharpening: float
    _score_attribute: str

    # Two methods, because parameters keep the order that checkpoints of optimizers know.

    def _hold(self, head: Head) -> None:
        self.candidates, self.normalize = head.candidates, head.normalize
        self.sparsify = head.sparsify

    def _hold_score(self, head: Head) -> None:
        """The score under the name that saved models know, and modules inside combined values."""
        self._score_attribute = head.score.attribute
        setattr(self, head.score.attribute, head.score)
        register_parts(self, **head.items())

    def _hold_sharpening(self, sharpening: bool | float) -> None:
        """A parameter that starts at 1 for True, at the number given, and is None for False."""
        score = self.score_slot
        self.initial_sharpening = (
            float(sharpening)
            if isinstance(sharpening, bool)
            else float(number("sharpening", sharpening, above=0.0, hint="; or False"))
        )
        if not score.scaled and not isinstance(sharpening, bool):
            raise ValueError(
                f"sharpening={sharpening} is a factor of the scores, and score={score.name!r} has "
                "a scale of its own: leave it out"
            )
        self.sharpening = (
            nn.Parameter(torch.full((1,), self.initial_sharpening))
            if sharpening and score.scaled
            else None
        )

    @property
    def score_slot(self) -> Any:
        """The score, under whatever name it stands."""
        return getattr(self, self._score_attribute)

    def _score(self, previous: AttentionGraph | None) -> Score:
        """The score of one call.

        Raises:
            ValueError: the graph of the layer before, for a score that reads none.
        """
        score = self.score_slot
        if score.previous:
            return score.of_call(self.sharpening, previous)
        if previous is not None:
            raise ValueError(
                f"previous is given, and score={score.name!r} reads no graph of the layer before: "
                "leave it out"
            )
        return score.of_call(self.sharpening)

    def reset_parameters(self) -> None:
        """Every parameter as the constructor left it (linear maps drawn anew)."""
        for module in self.children():
            if hasattr(module, "reset_parameters"):  # a sparsifier of a user's own may have none
                module.reset_parameters()  # type: ignore[operator]
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """The same of those that are no module's inside."""
        if self.sharpening is not None:
            nn.init.constant_(self.sharpening, self.initial_sharpening)
