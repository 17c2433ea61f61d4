"""What a relation may know of a graph, and the typed edges that it makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.finite import readable


@dataclass(frozen=True, eq=False)
class TypedEdges:
    """Edges that carry messages, each with weights of its own type.

    Attributes:
        senders, receivers: int64 ``[M]``.
        channel: int64 ``[M]``, the number of the type.
        weight: ``[M]``, a factor of the message; None for 1.
    """

    senders: Tensor
    receivers: Tensor
    channel: Tensor
    weight: Tensor | None = None

    def repeated(self, times: int, num_senders: int, num_receivers: int) -> TypedEdges:
        """The same edges in copies of the graph, whose nodes are numbered on."""
        copy = torch.arange(times, device=self.senders.device).unsqueeze(-1)
        return TypedEdges(
            (self.senders + num_senders * copy).flatten(),
            (self.receivers + num_receivers * copy).flatten(),
            self.channel.repeat(times),
            None if self.weight is None else self.weight.repeat(times),
        )

    def averaged(self, channels: int, num_receivers: int) -> TypedEdges:
        """Weights over how many edges of the type the receiver has."""
        row = self.channel * num_receivers + self.receivers
        here = torch.ones_like(row, dtype=torch.float32) if self.weight is None else self.weight
        count = torch.zeros(channels * num_receivers, dtype=torch.float64, device=row.device)
        count = count.index_add(0, row, (here.detach() != 0).to(count.dtype))
        mean = here / count[row].clamp(min=1)
        return TypedEdges(self.senders, self.receivers, self.channel, mean)


@dataclass(frozen=True, eq=False)
class GraphEdges:
    """The edges of a graph as they were given.

    Attributes:
        senders, receivers: int64 ``[E]``.
        types: ``[E]``, their types; attr: ``[E, D]``, their features; weight: ``[E]``, a factor of
            their messages. None where they have none.
    """

    senders: Tensor
    receivers: Tensor
    types: Tensor | None = None
    attr: Tensor | None = None
    weight: Tensor | None = None

    def of_types(self, channel: Tensor) -> TypedEdges:
        """Each edge with its type."""
        return TypedEdges(self.senders, self.receivers, channel, self.weight)

    def where(self, there: Tensor) -> TypedEdges:
        """Each edge with every type for which ``there``, bool ``[E, channels]``, is true."""
        if readable(there):
            edge, channel = there.nonzero(as_tuple=True)
            weight = None if self.weight is None else self.weight[edge]
            return TypedEdges(self.senders[edge], self.receivers[edge], channel, weight)
        # how many there are is in the data: a weight of 0 where there is none
        channels = there.shape[1]
        weight = there.float() if self.weight is None else there * self.weight.unsqueeze(-1)
        return TypedEdges(
            self.senders.repeat_interleave(channels),
            self.receivers.repeat_interleave(channels),
            torch.arange(channels, device=there.device).repeat(len(there)),
            weight.flatten(),
        )
