"""AttentionGraph: the edges of every head of every sequence, as one value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import strict_flags
from graphformer.graph import checks, convert, files, lanes
from graphformer.graph.counts import by_value, degrees, magnitude, refuse_nan, starts
from graphformer.graph.keys import numbers_of, order_of


@dataclass(frozen=True, eq=False)
class AttentionGraph:
    """Directed, weighted edges from senders to receivers, for a batch of independent lanes.

    A *lane* is one independent graph: head ``h`` of sequence ``b`` is lane ``b * H + h``. Nodes are
    numbered ``lane * num_nodes + node``, so the whole batch is one disjoint graph and any graph
    library can run on it.

    Edges are sorted by receiver, then by sender: row ``i`` of the attention matrix is the slice
    ``indptr[i]:indptr[i + 1]``. Use :meth:`from_edges` to build a graph from edges in any order; it
    sorts and checks them.

    Attributes:
        senders: int64 ``[E]``, global index of the node a message comes from (a key),
            ``0 <= s < num_lanes * num_senders``.
        receivers: int64 ``[E]``, global index of the node it goes to (a query), ascending.
        weight: floating ``[E]``, one weight an edge; carries gradients.
        num_lanes: number of independent graphs, the product of ``batch_shape``.
        num_senders: nodes per lane on the sending side (keys).
        num_receivers: nodes per lane on the receiving side (queries). Where it is smaller than
            ``num_senders`` (decoding with a cache), the last receiver is the same token as the last
            sender.
        batch_shape: what the lanes are, usually ``(B, H)``; ``(B,)`` after merging heads; ``()``
            for one lane.
    """

    senders: Tensor
    receivers: Tensor
    weight: Tensor
    num_lanes: int
    num_senders: int
    num_receivers: int
    batch_shape: tuple[int, ...]
    # What is derived from the edges alone is computed once and shared by all graphs that differ
    # only in their weights.
    _derived: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        edges = self.senders.shape
        if len(edges) != 1 or self.receivers.shape != edges or self.weight.shape != edges:
            raise ValueError(
                "senders, receivers and weight must be one-dimensional and equally long, got "
                f"shapes {tuple(self.senders.shape)}, {tuple(self.receivers.shape)} and "
                f"{tuple(self.weight.shape)}"
            )
        if math.prod(self.batch_shape) != self.num_lanes:
            raise ValueError(
                f"batch_shape {self.batch_shape} holds {math.prod(self.batch_shape)} lanes, but "
                f"num_lanes is {self.num_lanes}"
            )

    # ------------------------------------------------------------------ building

    @classmethod
    def from_edges(
        cls,
        senders: Tensor,
        receivers: Tensor,
        weight: Tensor | None = None,
        *,
        num_nodes: int | None = None,
        num_senders: int | None = None,
        num_receivers: int | None = None,
        batch_shape: tuple[int, ...] = (),
    ) -> AttentionGraph:
        """A graph from edges in any order.

        Args:
            senders: integer ``[E]``, global sender indices (``lane * num_senders + node``).
            receivers: integer ``[E]``, global receiver indices (``lane * num_receivers + node``).
            weight: floating ``[E]``; ones when left out.
            num_nodes: nodes per lane, where both sides have the same number.
            num_senders, num_receivers: nodes per lane on either side, where they differ.
            batch_shape: shape of the lanes; ``()`` is a single lane.

        Raises:
            ValueError: sizes are missing or contradict each other, lengths differ, an index is out
                of range, or a weight is NaN.
            TypeError: the indices are not integers or the weight is not floating point.
        """
        num_senders, num_receivers = checks.sizes(num_nodes, num_senders, num_receivers)
        senders, receivers = checks.whole_numbers(senders, receivers)
        if weight is None:
            weight = torch.ones(senders.shape, device=senders.device)
        elif not weight.is_floating_point():
            raise TypeError(
                f"weight must be floating point, got {weight.dtype}; convert it with weight.float()"
            )
        num_lanes = math.prod(batch_shape)
        graph = cls(
            senders, receivers, weight, num_lanes, num_senders, num_receivers, tuple(batch_shape)
        )
        checks.refuse_strangers(graph)
        refuse_nan(weight)
        order = order_of(receivers, senders, num_lanes * num_receivers, num_lanes * num_senders)
        return dataclasses.replace(
            graph,
            senders=senders[order],
            receivers=receivers[order],
            weight=weight[order],
            _derived={},
        )

    @classmethod
    def of_sorted(
        cls,
        ends: tuple[Tensor, Tensor],
        weight: Tensor | None,
        sizes: tuple[int, int],
        lanes: tuple[int, ...] = (),
    ) -> AttentionGraph:
        """A graph from edges that are known to be sorted and in range.

        Args:
            ends: senders and receivers, global indices int64 ``[E]``.
            weight: floating ``[E]``; None: ones.
            sizes: senders and receivers per lane.
            lanes: their shape.
        """
        weight = torch.ones(ends[0].shape, device=ends[0].device) if weight is None else weight
        return cls(*ends, weight, math.prod(lanes), *sizes, lanes)

    from_dense = staticmethod(convert.from_dense)
    from_scipy = staticmethod(convert.from_scipy)
    from_networkx = staticmethod(convert.from_networkx)
    from_pyg = staticmethod(convert.from_pyg)
    from_dgl = staticmethod(convert.from_dgl)

    # ------------------------------------------------------------------ reading

    @property
    def num_edges(self) -> int:
        return self.senders.shape[0]

    @property
    def num_nodes(self) -> int:
        """Nodes per lane, where senders and receivers are the same nodes."""
        if self.num_senders != self.num_receivers:
            raise ValueError(
                f"this graph has {self.num_senders} senders and {self.num_receivers} receivers per "
                "lane: ask for one of them"
            )
        return self.num_senders

    @property
    def edge_index(self) -> Tensor:
        """int64 ``[2, E]``: senders, then receivers (PyG's ``source_to_target``)."""
        return torch.stack((self.senders, self.receivers))

    @property
    def device(self) -> torch.device:
        return self.senders.device

    @property
    def indptr(self) -> Tensor:
        """int64 ``[num_lanes * num_receivers + 1]``: where each receiver's edges start (compressed
        sparse rows).
        """
        return self.derived("indptr", lambda: starts(self.in_degree()))

    @property
    def by_sender(self) -> tuple[Tensor, Tensor]:
        """Edge numbers int64 ``[E]`` in the order of their senders, and where each sender's start,
        ``[num_lanes * num_senders + 1]``.
        """
        size = self.num_lanes * self.num_senders
        return self.derived("by_sender", lambda: by_value(self.senders, size))

    def derived(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value that depends on the edges and not on their weights: computed once, kept by
        :meth:`with_weight`.
        """
        if name not in self._derived:
            self._derived[name] = compute()
        return self._derived[name]

    @property
    def sender_lane(self) -> Tensor:
        """int64 ``[E]``: the lane each edge lies in."""
        return torch.div(self.senders, max(self.num_senders, 1), rounding_mode="floor")

    def in_degree(self) -> Tensor:
        """int64 ``[num_lanes * num_receivers]``: the number of kept senders of each receiver."""
        size = self.num_lanes * self.num_receivers
        return self.derived("in_degree", lambda: degrees(self.receivers, size))

    @strict_flags
    def in_weight(self, *, absolute: bool = False) -> Tensor:
        """``[num_lanes * num_receivers]``: the summed weight of each receiver's edges, or of its
        absolute weights; differentiable.
        """
        weight = magnitude(self.weight) if absolute else self.weight
        return weight.new_zeros(self.num_lanes * self.num_receivers).index_add(
            0, self.receivers, weight
        )

    lane = lanes.lane

    # ----------------------------------------------------------- editing (each returns a new graph)

    def with_weight(self, weight: Tensor) -> AttentionGraph:
        """The same edges with other weights ``[E]``."""
        return dataclasses.replace(self, weight=weight)

    def unweighted(self) -> AttentionGraph:
        """The same edges, each of weight 1."""
        return self.with_weight(torch.ones_like(self.weight))

    def detach(self) -> AttentionGraph:
        """The same graph cut off from autograd."""
        return self.with_weight(self.weight.detach())

    def to(self, *args: Any, **kwargs: Any) -> AttentionGraph:
        """To another device or weight precision, like ``Tensor.to``; the indices stay int64.

        Raises:
            TypeError: a dtype that is not floating point, in which weights would be lost.
        """
        weight = self.weight.to(*args, **kwargs)
        if not weight.is_floating_point():
            raise TypeError(f"weights are floating point numbers, and {weight.dtype} is none")
        if weight.device == self.device:
            return self.with_weight(weight)
        senders, receivers = self.senders.to(weight.device), self.receivers.to(weight.device)
        return dataclasses.replace(
            self, senders=senders, receivers=receivers, weight=weight, _derived={}
        )

    def select(self, keep: Tensor) -> AttentionGraph:
        """The edges for which ``keep`` (bool ``[E]``) is true; weights are not changed."""
        if keep.shape != self.senders.shape or keep.dtype != torch.bool:
            raise ValueError(
                f"keep must be bool of shape {tuple(self.senders.shape)}, got {keep.dtype} of "
                f"shape {tuple(keep.shape)}"
            )
        kept = numbers_of(keep)
        senders, receivers = self.senders[kept], self.receivers[kept]
        return dataclasses.replace(
            self, senders=senders, receivers=receivers, weight=self.weight[kept], _derived={}
        )

    def renormalize(self) -> AttentionGraph:
        """Weights divided by the sum of their receiver's absolute weights, which then sum to 1
        (weights that are all 0 stay so).

        The sum itself may be about 0 where weights have either sign, and dividing by it would have
        no bound.
        """
        total = self.in_weight(absolute=True)[self.receivers]
        safe = torch.where(total == 0, torch.ones_like(total), total)
        return self.with_weight(
            torch.where(total == 0, torch.zeros_like(self.weight), self.weight / safe)
        )

    def reverse(self) -> AttentionGraph:
        """Every edge turned round; senders and receivers change places."""
        return AttentionGraph.from_edges(
            self.receivers,
            self.senders,
            self.weight,
            num_senders=self.num_receivers,
            num_receivers=self.num_senders,
            batch_shape=self.batch_shape,
        )

    merge_heads = lanes.merge_heads

    # ------------------------------------------------------------------ converting and saving

    to_dense = convert.to_dense
    to_scipy = convert.to_scipy
    to_networkx = convert.to_networkx
    to_pyg = convert.to_pyg
    to_dgl = convert.to_dgl
    save = files.save
    load = staticmethod(files.load)

    def __getstate__(self) -> dict[str, Any]:
        # What was derived may be another library's graph, and is quickly derived again.
        return {**self.__dict__, "_derived": {}}

    def __repr__(self) -> str:
        grad = ", differentiable" if self.weight.requires_grad else ""
        return (
            f"AttentionGraph({self.num_edges} edges, batch_shape={self.batch_shape}, "
            f"num_senders={self.num_senders}, num_receivers={self.num_receivers}, "
            f"{self.weight.dtype}, {self.device}{grad})"
        )


# What a pickled graph calls it, whichever module it stands in.
AttentionGraph.__module__ = "graphformer.graph"
# torch.load takes it under weights_only: it holds tensors and numbers
torch.serialization.add_safe_globals([AttentionGraph])
