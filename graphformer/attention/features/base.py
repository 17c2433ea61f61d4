"""The features slot: what a node sends to its receivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graphformer.attention.slot import Slot


class Features(Slot, slot="features"):
    """Base of the features; one of your own overrides :meth:`of_nodes`.

    Attributes:
        projects: whether they begin with the layer's projection of values, else with the heads'
            slices of the hidden states.
        changes: whether it changes these (:meth:`of_nodes`).
        reads_hidden: whether it looks at the hidden states while it does.
        reads_first: whether it reads what the first layer sends (:meth:`with_first`).
    """

    projects: bool = False
    changes: bool = False
    reads_hidden: bool = False
    reads_first: bool = False
    told_by: ClassVar = {"of_nodes": "changes", "with_first": "reads_first"}

    def of_nodes(self, x: Tensor, hidden_states: Tensor) -> Tensor:
        """What each node sends, ``[B, Hkv, N, D]``.

        A cache keeps it, so it must not depend on later nodes.

        Args:
            x: slices or projected values ``[B, Hkv, N, D]``.
            hidden_states: what they were made of, ``[B, N, channels]``.
        """
        return x

    def with_first(self, x: Tensor, first: Tensor) -> Tensor:
        """What each node sends, from what it would send by itself and what it sends in the first
        layer, both ``[B, Hkv, N, D]``.
        """
        return x

    def in_first_layer(self) -> Features:
        """What stands in the first layer of a model, which has none before it."""
        return self


@dataclass(frozen=True)
class Slice(Features, name="slice"):
    """The head's own slice of the hidden states (arXiv 2501.02393)."""


@dataclass(frozen=True)
class Projection(Features, name="projection"):
    """``W_v x``, as in plain attention (arXiv 1706.03762)."""

    projects = True
