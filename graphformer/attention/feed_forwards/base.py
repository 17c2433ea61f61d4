"""The slot of a block's feed-forward, and maps for each head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages
from graphformer.attention.slot import Slot, check_slot, own_copy
from graphformer.errors import whole
from graphformer.graph import AttentionGraph


class FeedForward(nn.Module, Slot, slot="feed_forward"):
    """Base of the feed-forwards; one of your own overrides :meth:`forward`, or :meth:`on_graph` to
    send something over the graphs of the attention before it.

    Attributes:
        reads_graph: whether it does so. Then the attention builds its edges.
    """

    reads_graph: bool = False
    told_by: ClassVar = {"on_graph": "reads_graph"}

    def forward(self, x: Tensor, graph: EdgeMessages | AttentionGraph | None = None) -> Tensor:
        """
        Args:
            x: ``[B, N, hidden_size]``, or ``[N, hidden_size]`` of one graph.
            graph: the heads' graph, lanes ``(B, H)`` or ``(H,)``; with a cache, what a layer hands
                on.

        Returns:
            The same shape as x.

        Raises:
            ValueError: no graph, or one that does not fit x.
        """
        name = f"feed_forward={self.name or type(self).__name__!r}"
        if graph is None:
            raise ValueError(
                f"{name} sends messages over the heads' graph: give it, as of a layer called with "
                "output_graph=True"
            )
        edges = graph
        if isinstance(edges, AttentionGraph):
            edges = EdgeMessages(edges, (1, *edges.batch_shape)[-1])
        if self.arguments().get("num_heads") not in (None, edges.heads):
            raise ValueError(
                f"{name} has {self.arguments()['num_heads']} heads and the graph {edges.heads}: "
                "give the graph of a layer with as many"
            )
        whole_x = x if x.ndim == 3 else x.unsqueeze(0)
        found = edges.graph
        wanted = (whole_x.shape[0] * edges.heads, whole_x.shape[1])
        if (found.num_lanes, found.num_receivers) != wanted:
            raise ValueError(
                f"{name} got x {list(x.shape)} and a graph of {found.num_lanes} lanes with "
                f"{found.num_receivers} receivers each: it needs one lane for each head of each "
                "sequence, and one receiver a token"
            )
        return self.on_graph(whole_x, edges).view(x.shape)

    def on_graph(self, x: Tensor, edges: EdgeMessages) -> Tensor:
        """From ``[B, N, hidden_size]`` and the heads' edges to ``[B, N, hidden_size]``."""
        raise NotImplementedError

    def takes_apart(self, intermediate_size: int, num_heads: int) -> int:
        """Hidden units of each head, which must share them evenly."""
        if intermediate_size % num_heads:
            raise ValueError(
                f"feed_forward={self.name!r} gives each of the {num_heads} heads a slice of the "
                f"hidden units, and intermediate_size {intermediate_size} is no multiple of "
                f"them: take {max(intermediate_size // num_heads, 1) * num_heads}"
            )
        return intermediate_size // num_heads


def of_heads(t: Tensor, heads: int) -> Tensor:
    """``[B, N, H * d]`` to ``[B, H, N, d]``."""
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def together(t: Tensor) -> Tensor:
    """``[B, H, N, d]`` to ``[B, N, H * d]``."""
    return t.transpose(1, 2).flatten(2)


class HeadLinear(nn.Module):
    """A map without bias for each head, ``[B, H, N, in]`` to ``[B, H, N, out]``."""

    def __init__(self, num_heads: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, in_features, out_features))
        self.reset_own_parameters()

    def reset_parameters(self) -> None:
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """As ``nn.Linear``: uniform within ``1 / sqrt(in)``."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def extra_repr(self) -> str:
        heads, inner, outer = self.weight.shape
        return f"{heads} heads, {inner} -> {outer}"


def feed_forward_for(value: Any, **sizes: Any) -> FeedForward:
    """The feed-forward of one block, with the sizes that it leaves out filled in.

    Args:
        value: a :class:`FeedForward`, its name or its plain form.
        sizes: ``hidden_size``, ``intermediate_size``, ``num_heads``, ``dropout``.

    Raises:
        ValueError: an unknown name, or sizes that contradict those of the block.
    """
    made = own_copy(check_slot("feed_forward", FeedForward, value))
    given: Mapping[str, Any] = made.arguments()
    for name in ("hidden_size", "intermediate_size", "num_heads"):
        whole(name, sizes[name])
        if given.get(name) not in (None, sizes[name]):
            raise ValueError(
                f"feed_forward={made.name!r} has {name}={given[name]}, and the block has "
                f"{sizes[name]}: leave it out, and the block's counts"
            )
    return made.for_layer(sizes)
