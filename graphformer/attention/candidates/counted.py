"""Rules on places, where a text does not begin with its row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Counted(Rule):
    """A rule whose places count from the beginning of each text: behind padding on the left, and in
    every one of several packed texts, as in the text alone.

    Attributes:
        rule: one that is ``absolute``.
        begins: int64 ``[B, Nk]``, the place where each sender's text begins.
    """

    rule: Rule
    begins: Tensor

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.rule.same_heads

    def allow(self, pairs: Pairs) -> Tensor:
        of_receiver = self.begins[pairs.sequence, pairs.position]
        of_sender = self.begins[pairs.sequence, pairs.sender]
        return self.rule.allow(
            replace(pairs, receiver=pairs.receiver - of_receiver, sender=pairs.sender - of_sender)
        )

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        self.rule.check(batch, heads, num_receivers, num_senders)
