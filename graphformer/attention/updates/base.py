"""The update slot: what becomes of the heads' outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphformer.attention.slot import Slot


class Update(Slot, slot="update"):
    """Base of the updates; one of your own overrides :meth:`of_heads`.

    Attributes:
        maps: whether the layer's linear map over all heads follows.
        reads_hidden: whether :meth:`of_heads` looks at hidden states; one of your own does, unless
            it says otherwise.
    """

    maps: bool = False
    reads_hidden: bool = False
    told_by: ClassVar = {"of_heads": "reads_hidden"}

    def num_outputs(self, num_heads: int) -> int:
        """How many heads' outputs :meth:`of_heads` makes of those of ``num_heads`` heads."""
        return num_heads

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        """The heads' outputs, changed, ``[B, num_outputs(H), N, D]``; then they stand beside each
        other.

        Args:
            out: what the operator made, ``[B, H, N, D]``.
            hidden_states: the layer's input at the receivers, ``[B, N, channels]``.
        """
        return out


@dataclass(frozen=True)
class Concat(Update, name="concat"):
    """The heads beside each other (arXiv 2501.02393)."""


@dataclass(frozen=True)
class OutputMap(Update, name="output_map"):
    """The heads beside each other, then a linear map (arXiv 1706.03762)."""

    maps = True
