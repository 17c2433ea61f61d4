"""What a kind of model must say of itself to be pruned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphformer.attention.feed_forwards import GatedMLP
from graphformer.training.pruning.masks import ConcreteMask

Left = Sequence[Tensor | None]
"""Of each block the numbers of the units that are left, int64; None: all of them."""


@dataclass(frozen=True)
class Site:
    """A block whose heads and hidden units may be taken out.

    Attributes:
        name: in messages, ``"layer 0"``. prefix: of the names of its tensors.
        block: the module itself. attention: its layer. feed_forward: the same.
        num_heads: of the layer. units: key heads, each with the queries that it serves.
        width: of all heads together, before the output map.
    """

    name: str
    prefix: str
    block: nn.Module
    attention: Any
    feed_forward: Any
    num_heads: int
    units: int
    width: int


class Kind(ABC):
    """A kind of model.

    Attributes:
        parts: what may be cut.
        even: whether all blocks keep the same number of heads.
        sites: its blocks.
    """

    parts: ClassVar[tuple[str, ...]]
    even: ClassVar[bool]
    sites: list[Site]

    def __init__(self, model: Any, example: Any) -> None:
        self.model, self.example = model, example

    def of(self, model: Any) -> Kind:
        """The same of another model of the same making."""
        return type(self)(model, self.example)

    @property
    @abstractmethod
    def precision(self) -> torch.dtype:
        """Of its weights."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are."""

    @abstractmethod
    def smaller(self, depths: Sequence[int], heads: Left, widths: Left) -> Any:
        """A new model with the blocks ``depths``, each with what is left of it."""

    @abstractmethod
    def finished(self, small: Any) -> None:
        """What is to be done once the weights of the smaller model are in it."""

    @abstractmethod
    def answers(self, model: Any) -> list[Tensor]:
        """What a model in float64 says, to be compared."""

    def attach(self, masks: Sequence[ConcreteMask]) -> None:  # noqa: B027 (most have none such)
        """Let what reads all heads of a block read those that a mask keeps; none: all again."""

    def check(self, targets: dict[str, float]) -> None:
        """ValueError for a share of what the model has not, or cannot do without."""
        for name, share in targets.items():
            if share and name not in self.parts:
                raise ValueError(
                    f"{name}={share}: of a {type(self.model).__name__} "
                    f"{', '.join(self.parts)} can be pruned"
                )
        for site in self.sites:
            layer = site.attention
            if targets["heads"] and (layer.o_proj is None or not layer.features.projects):
                raise ValueError(
                    f"heads: {site.name} has features={layer.features.name!r} and "
                    f"update={layer.update_slot.name!r}, whose heads are places of the stream and "
                    "cannot be taken out: make the model with value_projection=True and "
                    "output_projection=True, or prune layers or weights"
                )
            outputs = layer.update_slot.num_outputs(site.num_heads)
            if targets["heads"] and outputs != site.num_heads:
                raise ValueError(
                    f"heads: update={layer.update_slot.name!r} of {site.name} makes one output of "
                    "several heads: prune layers or weights"
                )
            if targets["widths"] and type(site.feed_forward) is not GatedMLP:
                raise ValueError(
                    f"widths: feed_forward={site.feed_forward.name!r} of {site.name} is not the "
                    "gated one, whose hidden units stand alone: prune heads or weights"
                )
