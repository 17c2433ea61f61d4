"""Explicit candidate edges."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Listed, Pairs
from graphformer.attention.slot import Slot
from graphformer.graph import AttentionGraph
from graphformer.graph.keys import unique_pairs


@dataclass(frozen=True, eq=False)
class Edges(Slot, slot="candidates", name="edges"):
    """Explicit candidate edges: only these pairs are scored, and the cost is linear in their
    number.

    Attributes:
        senders, receivers: int64 ``[E]``, node numbers within a sequence (0-based).
        sequence: int64 ``[E]``, the sequence of the batch each edge belongs to; left out, every
            sequence has every edge.
        head: int64 ``[E]``, the head each edge belongs to; left out, every head has every edge.
    """

    senders: Tensor
    receivers: Tensor
    sequence: Tensor | None = None
    head: Tensor | None = None
    _graph: AttentionGraph | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (
            ("senders", self.senders),
            ("receivers", self.receivers),
            ("sequence", self.sequence),
            ("head", self.head),
        ):
            if value is None:
                continue
            if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
                raise TypeError(f"candidate {name} must hold integers, got {value.dtype}")
            if value.ndim != 1 or value.shape != self.senders.shape:
                raise ValueError(
                    f"candidate {name} must be one-dimensional and as long as senders, got shape "
                    f"{tuple(value.shape)} beside {tuple(self.senders.shape)}"
                )
            object.__setattr__(self, name, value.long())

    def lanes(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> AttentionGraph:
        """One graph over all lanes, sorted by receiver and checked; weights are ones. Repeated
        edges count once.
        """
        given = self._graph
        if given is not None and in_order(given):
            shape = given.batch_shape, given.num_receivers, given.num_senders
            if shape == ((batch, heads), num_receivers, num_senders):
                return given
        for name, value, size in (
            ("senders", self.senders, num_senders),
            ("receivers", self.receivers, num_receivers),
            ("sequence", self.sequence, batch),
            ("head", self.head, heads),
        ):
            if (
                value is not None
                and value.numel()
                and not 0 <= int(value.min()) <= int(value.max()) < size
            ):
                raise ValueError(
                    f"candidate {name} must lie in 0..{size - 1}, got values from "
                    f"{int(value.min())} to {int(value.max())}"
                )
        senders, receivers, sequence, head = self.senders, self.receivers, self.sequence, self.head
        if sequence is None:  # every sequence has every edge
            sequence = torch.arange(batch, device=senders.device).repeat_interleave(senders.numel())
            senders, receivers = senders.repeat(batch), receivers.repeat(batch)
            head = None if head is None else head.repeat(batch)
        if head is None:  # every head has every edge
            every = torch.arange(heads, device=senders.device).view(-1, 1)
            lane = (sequence * heads + every).reshape(-1)
            senders, receivers = senders.repeat(heads), receivers.repeat(heads)
        else:
            lane = sequence * heads + head
        rows = batch * heads * num_receivers
        receivers, senders, _ = unique_pairs(
            lane * num_receivers + receivers, senders, rows, num_senders
        )
        lane = torch.div(receivers, max(num_receivers, 1), rounding_mode="floor")
        senders = lane * num_senders + senders
        sizes = num_senders, num_receivers
        return AttentionGraph.of_sorted((senders, receivers), None, sizes, (batch, heads))

    @classmethod
    def from_graph(cls, graph: AttentionGraph) -> Edges:
        """The edges of a graph: of one lane (shared by all sequences), one lane a sequence, or one
        a head ``(B, H)``.
        """
        if len(graph.batch_shape) > 2:
            raise ValueError(
                "candidates from a graph need lanes (), (B,) or (B, H), got batch_shape "
                f"{graph.batch_shape}; merge its heads first: graph.merge_heads('sum')"
            )
        local = (
            graph.senders % max(graph.num_senders, 1),
            graph.receivers % max(graph.num_receivers, 1),
        )
        if not graph.batch_shape:
            return cls(*local)
        if len(graph.batch_shape) == 1:
            return cls(*local, sequence=graph.sender_lane)
        heads = max(graph.batch_shape[1], 1)
        found = cls(
            *local,
            torch.div(graph.sender_lane, heads, rounding_mode="floor"),
            graph.sender_lane % heads,
        )
        object.__setattr__(found, "_graph", graph)  # which is those lanes already
        return found


def in_order(graph: AttentionGraph) -> bool:
    """Whether its edges ascend by receiver and sender, so that none is there twice."""
    senders, receivers = graph.senders, graph.receivers
    later = receivers[1:] > receivers[:-1]
    return bool((later | ((receivers[1:] == receivers[:-1]) & (senders[1:] > senders[:-1]))).all())


@dataclass(frozen=True, eq=False)
class Among(Rule):
    """Of listed edges those that a graph with the same lanes has too."""

    graph: AttentionGraph

    def allow(self, pairs: Pairs) -> Tensor:
        assert isinstance(pairs, Listed), "a rule of layers on edges"
        return pairs.of_graph(self.graph)[1]
