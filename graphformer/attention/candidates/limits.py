"""A rule told by its parts: order, windows, padding, packed texts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphformer.attention.candidates.base import All, Both, Rule
from graphformer.attention.candidates.causal import Causal
from graphformer.attention.candidates.keep import Keep
from graphformer.attention.candidates.packed import Packed
from graphformer.attention.candidates.window import Window


class Limits(NamedTuple):
    """What a rule of texts is made of.

    Attributes:
        causal: whether no sender stands behind its receiver.
        windows: their sizes.
        real: bool ``[B, Nk]``, false for padding; None where there is none.
        texts: int ``[B, Nk]`` each, a number for each of several texts in a row, ascending.
    """

    causal: bool
    windows: tuple[int, ...]
    real: Tensor | None
    texts: tuple[Tensor, ...]


def limits(rule: Rule) -> Limits | None:
    """The parts of a rule, for who sums over senders at once and not over pairs; None where one of
    them hides from a receiver what it shows to another for a reason that is none of these.
    """
    parts, causal, windows = [rule], False, []
    real: Tensor | None = None
    texts: list[Tensor] = []
    while parts:
        one = parts.pop()
        if type(one) is Both:
            parts += [one.first, one.second]
        elif type(one) is Causal:
            causal = True
        elif type(one) is Window:
            windows.append(one.size)
        elif type(one) is Keep and one.keep.ndim == 2:
            real = one.keep if real is None else real & one.keep
        elif type(one) is Packed and not torch.compiler.is_compiling():
            if bool((one.segments.diff(dim=-1) < 0).any()):
                return None  # a text's tokens may not stand beside each other
            texts.append(one.segments)
        elif type(one) is not All:
            return None
    return Limits(causal, tuple(windows), real, tuple(texts))
