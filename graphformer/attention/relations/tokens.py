"""What a relation may know of a batch of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphformer.attention.candidates import Both, Keep, Packed
from graphformer.graph import AttentionGraph

if TYPE_CHECKING:
    from graphformer.attention.relations.base import Relation


@dataclass(frozen=True, eq=False)
class Tokens:
    """Rows of ``Nk`` tokens, of which the last ``N`` receive; the others are in a cache.

    Attributes:
        batch, num_receivers, num_senders: B, N, Nk.
        ids: int64 ``[B, Nk]``, where they are known.
        real: bool ``[B, Nk]``, false for padding; None where there is none.
        texts: int64 ``[B, Nk]``, a number for each of several texts in a row; None for one a row.
        pairs: bool ``[B or 1, N, Nk]``, which pairs may see each other; None for all.
    """

    batch: int
    num_receivers: int
    num_senders: int
    device: torch.device
    ids: Tensor | None = None
    real: Tensor | None = None
    texts: Tensor | None = None
    pairs: Tensor | None = None

    @classmethod
    def read(
        cls,
        sizes: tuple[int, int, int],
        device: torch.device,
        ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        candidates: Any = None,
    ) -> Tokens:
        """From the arguments of an attention layer.

        Args:
            sizes: B, N, Nk.
            attention_mask: as there: ``[B, Nk]``, or pairs ``[B or 1, 1, N, Nk]``.
            candidates: a rule that keeps packed texts apart, or None.

        Raises:
            ValueError: shapes that do not fit; a limit on pairs that relations cannot follow.
        """
        batch, receivers, senders = sizes
        if ids is not None and tuple(ids.shape) != (batch, senders):
            raise ValueError(
                f"input_ids must be [{batch}, {senders}] (batch, length, cached tokens included), "
                f"got {list(ids.shape)}"
            )
        real = pairs = None
        if attention_mask is not None:
            mask = Keep(attention_mask)
            mask.check(batch, 1, receivers, senders)
            real, pairs = (mask.keep, None) if mask.keep.ndim == 2 else (None, mask.keep[:, 0])
        texts = _texts(candidates)
        if texts is not None:
            Packed(texts).check(batch, 1, receivers, senders)
        return cls(batch, receivers, senders, device, ids, real, texts, pairs)

    @property
    def places(self) -> Tensor:
        """Of the senders, ``[Nk]``."""
        return torch.arange(self.num_senders, device=self.device)

    @property
    def receivers(self) -> Tensor:
        """Places of the receivers, ``[N]``."""
        return self.places[self.num_senders - self.num_receivers :]

    def visible(self) -> Tensor:
        """Bool ``[B, N, Nk]``: real senders at or before the receiver, in its text, that no mask
        hides from it.
        """
        found = self.places <= self.receivers[:, None]
        found = found.expand(self.batch, -1, -1)
        if self.real is not None:
            found = found & self.real[:, None, :]
        if self.texts is not None:
            found = found & (self.texts[:, self.receivers, None] == self.texts[:, None, :])
        return found if self.pairs is None else found & self.pairs

    def before(self, steps: int) -> tuple[Tensor, Tensor]:
        """The place ``steps`` before each receiver, ``[N]``, and whether the receiver sees it,
        ``[B or 1, N]``.
        """
        place = self.receivers - steps
        there, place = (place >= 0).unsqueeze(0), place.clamp(min=0)
        if self.real is not None:
            there = there & self.real[:, place]
        if self.texts is not None:
            there = there & (self.texts[:, place] == self.texts[:, self.receivers])
        if self.pairs is not None:
            own = torch.arange(self.num_receivers, device=self.device)
            there = there & self.pairs[:, own, place]
        return place, there


def _texts(candidates: Any) -> Tensor | None:
    """Which text each token is of, by a rule of one call."""
    if candidates is None:
        return None
    if type(candidates) is Packed:  # a subclass has another rule
        return candidates.segments
    if isinstance(candidates, Both):
        parts = [_texts(candidates.first), _texts(candidates.second)]
        if parts[0] is not None and parts[1] is not None:
            # two numberings: a pair of numbers is a text
            return parts[0] * (parts[1].max() + 1) + parts[1]
    raise ValueError(
        f"candidates={type(candidates).__name__} of a call keep pairs apart in a way that "
        "relations do not read: give attention_mask of pairs [B, 1, N, N], or "
        "candidates=Packed(segments), which hold for relations too; or make it the candidates of "
        "the layer's head, which are attention's alone"
    )


def relation_graph(
    relation: Relation,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    candidates: Any = None,
) -> AttentionGraph:
    """The edges of a relation in texts ``[B, N]``, lanes ``(B, channels)``: to look at, from its
    readable form, a matrix.

    >>> relation_graph(gf.Repeats(1), input_ids).to_networkx()
    """
    batch, length = input_ids.shape
    sizes = batch, length, length
    tokens = Tokens.read(sizes, input_ids.device, input_ids, attention_mask, candidates)
    weight = relation.edges(tokens).transpose(0, 1).float()
    if relation.averages:
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
    return AttentionGraph.from_dense(weight)
