"""Candidate edges over one set of nodes, sorted once and shared by all heads and layers that score
them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.finite import readable
from graphformer.graph import AttentionGraph
from graphformer.graph.keys import numbers_of, order_of, pair_keys
from graphformer.nn.graph_inputs import numberless


def check_ends(
    senders: Tensor,
    receivers: Tensor,
    num_senders: int,
    num_receivers: int,
    source: str = "edge_index",
    *,
    device: torch.device | None = None,
    swapped: bool = False,
) -> None:
    """Raise where ends are no integers, of unequal length, on another device or out of range.

    An accelerator is not waited for: there an edge out of range ends the program by the device's
    own assertion (``RuntimeError`` at the next synchronisation), and compiled code by the bounds of
    its index operations.

    Args:
        source: what the user calls them.
        device: where the features are.
        swapped: receivers are the first row of ``source``.
    """
    rows = (
        (swapped, "senders", senders, num_senders),
        (not swapped, "receivers", receivers, num_receivers),
    )
    for side, name, ends, size in rows:
        if ends.is_floating_point() or ends.is_complex() or ends.dtype == torch.bool:
            raise TypeError(
                f"{source} must hold integers, got {ends.dtype}; convert it with .long()"
            )
        if ends.ndim != 1 or ends.shape != senders.shape:
            raise ValueError(
                f"{source} must be two equally long rows, got shapes {list(senders.shape)} and "
                f"{list(receivers.shape)}"
            )
        if device is not None and ends.device != device:
            raise ValueError(
                f"{source} is on {ends.device} and the features on {device}; move one of them with "
                ".to(...)"
            )
        if not readable(ends):
            # A compiler's own index operations look at their bounds; kernels that sum rows on an
            # accelerator do not.
            if not numberless(ends):
                torch._assert_async(
                    ((ends >= 0) & (ends < size)).all(),
                    f"{source} ({name}) must lie in 0..{size - 1}",
                )
        elif ends.numel() and not 0 <= int(ends.min()) <= int(ends.max()) < size:
            raise ValueError(
                f"{source}[{int(side)}] ({name}) must lie in 0..{size - 1}, got values from "
                f"{int(ends.min())} to {int(ends.max())}: the features have fewer rows than the "
                "edges name, or the edges of a batch were not renumbered"
            )


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Edges of one graph, sorted by receiver, then sender; equal pairs stay separate edges in the
    order in which they were given.

    Attributes:
        senders, receivers: int64 ``[E]``.
        num_senders, num_receivers: nodes on either side.
        order: int64 ``[E]``: the place that each edge had in the list that was given.
        ids: int64 ``[E]``: a number by which an edge is known in other lists over the same nodes,
            of equal pairs each its own; None where its pair is enough.
    """

    senders: Tensor
    receivers: Tensor
    num_senders: int
    num_receivers: int
    order: Tensor
    ids: Tensor | None = None
    _graphs: dict[tuple[str, int], AttentionGraph] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @classmethod
    def sort(
        cls,
        senders: Tensor,
        receivers: Tensor,
        num_senders: int,
        num_receivers: int,
        source: str = "edge_index",
    ) -> EdgeList:
        """From edges in any order, checked; errors call them ``source``."""
        check_ends(senders, receivers, num_senders, num_receivers, source)
        senders, receivers = senders.long(), receivers.long()
        order = order_of(receivers, senders, num_receivers, num_senders)
        return cls(senders[order], receivers[order], num_senders, num_receivers, order)

    @property
    def num_edges(self) -> int:
        return self.senders.shape[0]

    @property
    def keys(self) -> Tensor:
        """int64 ``[E]``, ascending: one number a pair of receiver and sender; ValueError where 64
        bits do not hold it.
        """
        return pair_keys(self.receivers, self.senders, self.num_receivers, self.num_senders)

    @property
    def identity(self) -> Tensor:
        """int64 ``[E]``: ``ids``, or ``keys`` where there are none."""
        return self.keys if self.ids is None else self.ids

    def select(self, keep: Tensor) -> EdgeList:
        """The edges for which ``keep`` (bool ``[E]``) is true."""
        keep = numbers_of(keep)
        return EdgeList(
            self.senders[keep],
            self.receivers[keep],
            self.num_senders,
            self.num_receivers,
            self.order[keep],
            None if self.ids is None else self.ids[keep],
        )

    def heads(self, num_heads: int) -> AttentionGraph:
        """The same edges for every head: lanes ``(H,)``, weights 1. Edge ``e`` of head ``h`` is
        number ``h * E + e``.

        A sort of ``H * E`` edges would cost more than all else that is done with them, so what one
        head needs is found once and shifted.
        """
        if ("heads", num_heads) not in self._graphs:
            sizes = self.num_senders, self.num_receivers
            one = AttentionGraph.of_sorted((self.senders, self.receivers), None, sizes)
            order, starts = one.by_sender
            shift = self.num_edges
            ends = (
                self._shifted(self.senders, num_heads, self.num_senders),
                self._shifted(self.receivers, num_heads, self.num_receivers),
            )
            graph = AttentionGraph.of_sorted(ends, None, sizes, (num_heads,))
            graph.derived("in_degree", lambda: one.in_degree().repeat(num_heads))
            graph.derived("indptr", lambda: self._starts(one.indptr, num_heads))
            graph.derived(
                "by_sender",
                lambda: (self._shifted(order, num_heads, shift), self._starts(starts, num_heads)),
            )
            self._graphs["heads", num_heads] = graph
        return self._graphs["heads", num_heads]

    def rows(self, num_heads: int) -> AttentionGraph:
        """The same edges from a row each, which all heads share: one lane, ``E`` senders, the
        receivers of all heads, weights 1.
        """
        if ("rows", num_heads) not in self._graphs:
            every, device = self.heads(num_heads), self.senders.device
            numbers = torch.arange(num_heads * self.num_edges, device=device).view(
                num_heads, self.num_edges
            )
            ends = numbers[0].repeat(num_heads), every.receivers
            sizes = self.num_edges, num_heads * self.num_receivers
            graph = AttentionGraph.of_sorted(ends, every.weight, sizes)
            graph.derived("in_degree", every.in_degree)
            graph.derived("indptr", lambda: every.indptr)
            starts = num_heads * torch.arange(self.num_edges + 1, device=device)
            graph.derived("by_sender", lambda: (numbers.t().flatten(), starts))
            self._graphs["rows", num_heads] = graph
        return self._graphs["rows", num_heads]

    def edges_as_senders(
        self, num_heads: int, weight: Tensor, numbers: Tensor | None = None
    ) -> AttentionGraph:
        """The same edges with each edge in the place of its sender: lanes ``(H,)``, ``E`` senders,
        so sender ``h * E + e`` is edge ``e``.

        ``numbers`` picks some of these edges, whose weights are given; unless given, all.

        Sparsifiers act on this one: whatever they drop, the edges that remain know which they are,
        equal pairs too.
        """
        receivers = self.heads(num_heads).receivers
        if numbers is None:
            numbers = torch.arange(num_heads * self.num_edges, device=self.senders.device)
        else:
            receivers = receivers[numbers]
        sizes = self.num_edges, self.num_receivers
        return AttentionGraph.of_sorted((numbers, receivers), weight, sizes, (num_heads,))

    def _shifted(self, values: Tensor, num_heads: int, size: int) -> Tensor:
        return (
            values + size * torch.arange(num_heads, device=values.device).unsqueeze(-1)
        ).flatten()

    def _starts(self, starts: Tensor, num_heads: int) -> Tensor:
        return torch.cat(
            (self._shifted(starts[:-1], num_heads, self.num_edges), starts[-1:] * num_heads)
        )
