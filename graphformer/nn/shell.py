"""What the shell of tokens and that of edges have in common: a head's slots as parts of a layer,
the maps around them, and what happens before and after the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.candidates import Rule
from graphformer.attention.features import Features
from graphformer.attention.head import Head
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.scores import Score
from graphformer.attention.sizes import require_sizes
from graphformer.attention.slot import register_parts
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.updates import Update
from graphformer.errors import number
from graphformer.graph import AttentionGraph
from graphformer.nn.maps import linear, mapped
from graphformer.nn.recompute import in_stretches


def check_first(layers: Sequence[Any]) -> None:
    """ValueError where layers on tokens read what the first one sends, and send another number of
    heads.
    """

    def senders(layer: Any) -> int:
        return int(layer.num_heads if layer.v_proj is None else layer.num_kv_heads)

    for place, layer in enumerate(layers):
        if layer.features.reads_first and senders(layer) != senders(layers[0]):
            raise ValueError(
                f"layer {place} has features={layer.features.name!r} of {senders(layer)} heads, "
                f"and the first layer sends {senders(layers[0])}: a projection has "
                "num_key_value_heads heads, slices have num_attention_heads; give all layers the "
                "same kind"
            )


class Shell(nn.Module):
    """A layer around a head.

    Attributes:
        candidates, normalize, sparsify, features, operator, update_slot: slots of the head.
        q_proj, k_proj, v_proj: maps of receivers, senders, senders; None where slots need none.
        o_proj: the map of the heads' outputs, where there is one.
        concat: whether heads stand beside each other; else their mean is taken.
        sharpening: trained factor of the scores ``[1]``, where there is one.
        initial_sharpening: where it starts.
    """

    candidates: Rule | None
    normalize: Normalizer
    sparsify: Sparsifier | None
    features: Features
    operator: Any
    update_slot: Update
    q_proj: nn.Linear | None
    k_proj: nn.Linear | None
    v_proj: nn.Linear | None
    o_proj: nn.Linear | None
    concat: bool = True
    sharpening: nn.Parameter | None
    initial_sharpening: float
    _score_attribute: str

    # Several methods, because parameters keep the order that checkpoints of optimizers know.

    def _hold(self, head: Head) -> None:
        self.candidates, self.normalize = head.candidates, head.normalize
        self.sparsify = head.sparsify

    def _hold_score(self, head: Head) -> None:
        """The score under the name that saved models know, and modules inside combined values."""
        self._score_attribute = head.score.attribute
        require_sizes(head.score)  # now, and not of what every call makes of it
        setattr(self, head.score.attribute, head.score)
        register_parts(self, **head.items())

    def _hold_queries(
        self, score: Score, receivers: int, senders: int, width: int, kv: int
    ) -> None:
        """Maps from the features of receivers and senders to queries and keys."""
        self.q_proj = linear(receivers, width) if score.projects else None
        self.k_proj = linear(senders, kv) if score.projects else None

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

    # ------------------------------------------------------------------ before and after the graph

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, N, heads * d]`` to ``[B, heads, N, d]``."""
        raise NotImplementedError

    def _own(self, receivers: Tensor, senders: Tensor, values: Tensor) -> Tensor:
        """The receivers' own features ``[B, H, Nq, d]``: what they send."""
        return values

    def _hidden(self, slot: Features | Score | Update, x: Tensor | None) -> Any:
        """A layer's input ``[B, N, channels]``, for a slot that may read it."""
        return x

    def _projected(
        self,
        receivers: Tensor | None,
        senders: Tensor,
        split: Callable[[Tensor], Tensor],
        num_receivers: int,
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What senders send ``[B, Hkv, Nk, d]``, the receivers' own features, and what the score
        takes for queries and keys.

        Args:
            receivers, senders: the layer's input. Where receivers have none, that counts as 0.
            split: cuts into heads and turns them by their positions.
            first: what senders send in the first layer, for features that read it.
        """
        values = self._heads(senders if self.v_proj is None else mapped(self.v_proj, senders))
        values = self.features.of_nodes(values, self._hidden(self.features, senders))
        values = self._beside_first(values, first)
        if receivers is None:
            own = values.new_zeros(*values.shape[:2], num_receivers, values.shape[3])
        else:
            own = self._own(receivers, senders, values)
        q, k = own, values
        if self.q_proj is not None and self.k_proj is not None:
            k = split(mapped(self.k_proj, senders))
            q = own if receivers is None else split(mapped(self.q_proj, receivers))
        score = self.score_slot
        hidden = self._hidden(score, receivers), self._hidden(score, senders)
        return values, own, *score.of_hidden(*hidden, q, k, split)

    def _beside_first(self, values: Tensor, first: Tensor | None) -> Tensor:
        """Features ``[B, Hkv, N, d]`` and those of the first layer.

        Raises:
            ValueError: the first layer's are missing, not read, or of another shape.
        """
        features = self.features
        if not features.reads_first:
            if first is None:
                return values
            raise ValueError(
                f"first is given, and features={features.name!r} read nothing of the first layer: "
                "leave it out, or take features='value_residual'"
            )
        if first is None:
            raise ValueError(
                f"features={features.name!r} read what the first layer sends: give it as "
                "first=..., which that layer returns with output_features=True"
            )
        if first.shape != values.shape:
            raise ValueError(
                f"the first layer sends {list(first.shape)}, and this one {list(values.shape)} "
                f"(batch, heads, nodes, width), which features={features.name!r} cannot mix: give "
                "both layers the same nodes, heads and kind of features (a projection has "
                "num_kv_heads heads, slices have num_heads)"
            )
        return features.with_first(values, first)

    def _operated(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        """The operator on reductions ``[B, H, Nq, D]``."""
        return in_stretches(self.operator, own, reduced)

    def _joined(self, out: Tensor, receivers: Tensor | None) -> Tensor:
        """The heads' outputs ``[B, H, Nq, d]`` as those of the layer ``[B, Nq, channels]``."""
        update = self.update_slot
        out = update.of_heads(out, self._hidden(update, receivers))
        out = out.transpose(1, 2).flatten(2) if self.concat else out.mean(1)
        return out if self.o_proj is None else self.o_proj(out)

    # ------------------------------------------------------------------ parameters anew

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
