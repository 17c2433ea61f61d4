"""Graph transformers, to be pruned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.models.graphs.transformer import GraphTransformer
from graphformer.training.pruning.kinds import Kind, Left, Site
from graphformer.training.pruning.masks import ConcreteMask


class _Kept:
    """Which heads count; an object, so that a copy of the model copies the mask too."""

    def __init__(self, mask: ConcreteMask) -> None:
        self.mask = mask

    def __call__(self) -> Tensor:
        return self.mask.kept


class Graphs(Kind):
    """A :class:`~graphformer.GraphTransformer`: all blocks of a smaller one have the same number of
    heads, as refined graphs and levels ask for.
    """

    parts = ("heads", "widths", "weights", "edges")
    even = True

    def __init__(self, model: GraphTransformer, example: Any) -> None:
        super().__init__(model, example)
        self.sites = []
        for i, layer in enumerate(model.layers):
            for depth, block in enumerate(layer.blocks):  # type: ignore[arg-type]
                conv: Any = block.conv
                name = f"layer {i}" + f", level {depth}" * bool(depth)
                width, prefix = conv.heads * conv.head_channels, f"layers.{i}.blocks.{depth}."
                found = conv, block.feed_forward, conv.heads, conv.heads, width
                self.sites.append(Site(name, prefix, block, *found))

    @property
    def precision(self) -> torch.dtype:
        return self.model._dtype()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check(self, targets: dict[str, float]) -> None:
        super().check(targets)
        if (targets["heads"] or targets["widths"]) and self.example is None:
            raise ValueError(
                "example is missing: heads and widths of a GraphTransformer are taken out on "
                "trial, which needs a Data or Batch of the kind that it is for, example=train[0]"
            )

    def attach(self, masks: Sequence[ConcreteMask]) -> None:
        for i, site in enumerate(self.sites):
            block: Any = site.block
            block.merge.counted = _Kept(masks[i]) if masks else None

    def smaller(self, depths: Sequence[int], heads: Left, widths: Left) -> GraphTransformer:
        settings, first = dict(self.model.settings), self.sites[0]
        if heads[0] is not None:
            settings["num_heads"] = len(heads[0])
            settings["head_dim"] = first.attention.head_channels
        if widths[0] is not None:
            settings["intermediate_size"] = len(widths[0])
        return GraphTransformer(**settings).to(device=self.device, dtype=self.precision)

    def finished(self, small: GraphTransformer) -> None:
        small.told = set(self.model.told)

    def answers(self, model: GraphTransformer) -> list[Tensor]:
        """Predictions for the example. Of equal edges, which a rounding may put in either order, no
        prediction depends on which one is kept.
        """
        data = copy.copy(self.example)
        for name in model.targets:
            if data.get(label := model.label(name, data)) is not None:
                del data[label]
        data = data.to(self.device).apply(lambda t: t.double() if t.is_floating_point() else t)
        out = model(data).prediction
        return list(out.values()) if isinstance(out, Mapping) else [out]
