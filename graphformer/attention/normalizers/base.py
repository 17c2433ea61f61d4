"""Slot 3, normalize: logits to weights, one receiver's row at a time."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import Slot, check_slot


class Normalizer(Slot, slot="normalize"):
    """Base of the normalizers; one of your own overrides :meth:`weights`.

    Attributes:
        is_softmax: its weights are those of :class:`Softmax`, which fast paths compute in one pass.
        is_identity: its weights are the logits, so sums of them may be taken in any order.
    """

    is_softmax: bool = False
    is_identity: bool = False
    said_of: ClassVar = {"weights": ("is_softmax", "is_identity")}

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        """Logits of pairs to their weights, of the same shape.

        A pair that is no candidate has weight 0 whatever is returned for it; sums, maxima and ranks
        of ``pairs`` leave it out.
        """
        raise NotImplementedError


def resolve(value: str | Normalizer) -> Normalizer:
    """A normalizer from its name or plain form, or the value itself."""
    return check_slot("normalize", Normalizer, value, "a name or a Normalizer")
