"""PyG's explainers on layers that make no message for each edge: the mask that an explainer sets, and the weights that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from graphformer.graph import AttentionGraph


@dataclass(frozen=True)
class GivenEdges:
    """Which edges of a layer's list are edges that the user gave: explainers know those alone, in the order in which they were given.

    Attributes:
        number: int64 ``[E]``: the number of the given edge, -1 where an edge is none (a candidate that the model found).
        total: how many were given.
    """

    number: Tensor
    total: int

    def select(self, keep: Tensor) -> GivenEdges:
        """The edges for which ``keep`` (bool ``[E]``) is true."""
        return GivenEdges(self.number[keep], self.total)

    def mask(self, layer: MessagePassing) -> Tensor | None:
        """A factor ``[E]`` for the message of each edge, 1 for edges that were not given; None where no explainer is at work.

        Raises:
            ValueError: the mask is not there, or is one for other edges.
        """
        if not layer.explain:
            return None
        mask = layer._edge_mask
        if mask is None or mask.shape != (self.total,):
            found = "none was set" if mask is None else f"its shape is {list(mask.shape)}"
            raise ValueError(
                f"{type(layer).__name__}.explain is True, so its edge mask must be [{self.total}], a number an edge; {found}. Take an "
                "explainer that sets masks, as GNNExplainer does, or set explain to None"
            )
        mask = mask.sigmoid() if layer._apply_sigmoid else mask
        return torch.cat((mask, mask.new_ones(1)))[self.number]  # -1 is the last

    def tell(self, layer: MessagePassing, kept: AttentionGraph) -> None:
        """Call PyG's message hooks with ``alpha`` ``[total, heads]``, 0 where a head has dropped an edge (AttentionExplainer reads it).

        ``kept``: the heads' graph with edges in the place of senders.
        """
        if not layer._message_forward_hooks:
            return
        heads, size = kept.num_lanes, len(self.number)
        alpha = kept.weight.new_zeros(heads * size).index_put((kept.senders,), kept.weight).view(heads, size)
        there = self.number >= 0
        alpha = alpha.new_zeros(self.total, heads).index_put((self.number[there],), alpha.t()[there])
        for hook in layer._message_forward_hooks.values():
            if hook(layer, ({"alpha": alpha},), None) is not None:
                raise ValueError(f"a message hook of {type(layer).__name__} returned messages, and this layer makes none: give edge_bias")
