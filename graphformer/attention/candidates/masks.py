"""Mask patterns of the field by name, each a rule on positions.

Of the fourteen of LongCA-bench and FlashMask (arXiv 2410.01359): full is ``"all"``, causal
``"causal"``; a sliding window is :class:`~graphformer.attention.candidates.Window`; a document mask
is :class:`~graphformer.attention.candidates.Packed`; a causal form is ``rule & Causal()``, global
tokens and a window ``First(n) | Window(size)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.packed import Packed
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.errors import whole


@dataclass(frozen=True)
class First(Rule, name="first"):
    """The first ``number`` senders, for every receiver: global tokens, or attention sinks
    (arXiv 2309.17453).
    """

    number: int
    same_heads = absolute = True

    def __post_init__(self) -> None:
        whole("number", self.number)

    def allow(self, pairs: Pairs) -> Tensor:
        return pairs.sender < self.number

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(min(self.number, num_senders))

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return range(min(self.number, num_senders))

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        place = torch.zeros(sizes[2], dtype=torch.int64, device=device)
        return Senders.between(place, place + self.number, sizes[3])


@dataclass(frozen=True)
class PrefixLM(Rule, name="prefix_lm"):
    """Everybody sees the first ``number`` tokens, and what follows is causal (arXiv 1910.10683,
    figure 4).
    """

    number: int
    same_heads = absolute = True

    def __post_init__(self) -> None:
        whole("number", self.number)

    def allow(self, pairs: Pairs) -> Tensor:
        return (pairs.sender < self.number) | (pairs.distance >= 0)


@dataclass(frozen=True)
class CausalBlocks(Rule, name="causal_blocks"):
    """Blocks of ``size`` tokens: all of the own block and of those before it."""

    size: int
    same_heads = absolute = True

    def __post_init__(self) -> None:
        whole("size", self.size)

    def allow(self, pairs: Pairs) -> Tensor:
        own, other = (
            torch.div(one, self.size, rounding_mode="floor")
            for one in (pairs.position, pairs.sender)
        )
        return other <= own


@dataclass(frozen=True, eq=False)
class SharedQuestion(Packed, name="shared_question"):
    """One question and several answers in a row: an answer sees the question and itself, not the
    others. Combine with ``Causal()``. Of ``segments``, int ``[B, Nk]``, 0 is the question, and each
    answer has a number of its own.
    """

    same_heads = True

    def starts(self) -> Tensor | None:
        return None

    def allow(self, pairs: Pairs) -> Tensor:
        return super().allow(pairs) | (self.segments[pairs.sequence, pairs.sender] == 0)
