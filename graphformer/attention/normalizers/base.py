"""Slot 3, normalize: logits to weights, one receiver's row at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import Slot, check_slot

if TYPE_CHECKING:
    from graphformer.attention.problem import Problem


class Normalizer(Slot, slot="normalize"):
    """Base of the normalizers; one of your own overrides :meth:`weights`.

    Attributes:
        is_softmax: its weights are those of :class:`Softmax`, which fast paths compute in one pass.
        is_identity: its weights are the logits, so sums of them may be taken in any order.
    """

    is_softmax: bool = False
    is_identity: bool = False
    said_of: ClassVar = {"weights": ("is_softmax", "is_identity", "as_softmax")}

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        """Logits of pairs to their weights, of the same shape.

        A pair that is no candidate has weight 0 whatever is returned for it; sums, maxima and ranks
        of ``pairs`` leave it out.
        """
        raise NotImplementedError

    def as_softmax(self, problem: Problem) -> Problem | None:
        """The same weights as a softmax of dot products, among fewer pairs: those that are left out
        have weight 0. None where it is not so, or not known.

        Executors take it where pairs of weight 0 count for nothing; ``executor="dense"`` runs the
        formula as it stands.
        """
        return None


def resolve(value: str | Normalizer) -> Normalizer:
    """A normalizer from its name or plain form, or the value itself."""
    return check_slot("normalize", Normalizer, value, "a name or a Normalizer")
