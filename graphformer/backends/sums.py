r"""Sums along edges that can be differentiated any number of times, and that ``torch.func`` can
transform.

Three maps are enough, because the gradient of each is made of the others:

======================= ======================================= ====================================
map                     formula                                 gradients, from ``g``
======================= ======================================= ====================================
:class:`WeightedSum`    :math:`\sum_{e \to i} w_e x_{j(e)}`     to x ``SumToSenders(g, w)``, to w
                                                                ``EdgeDots(g, x)``
:class:`SumToSenders`   :math:`\sum_{e \leftarrow j} w_e y_{i(e)}` to y ``WeightedSum(g, w)``, to w
                                                                ``EdgeDots(y, g)``
:class:`EdgeDots`       :math:`\langle a_{i(e)}, b_{j(e)} \rangle` to a ``WeightedSum(b, g)``, to b
                                                                ``SumToSenders(a, g)``
======================= ======================================= ====================================

None of them makes an ``[E, D]`` tensor. Under ``torch.func.vmap`` samples stand beside each other
as more channels where they share the weights, and as copies of the graph where they do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.autograd import Function
from graphformer.graph import AttentionGraph


@dataclass(frozen=True, eq=False)
class Ends:
    """What a sum needs of a graph's edges.

    Attributes:
        graph: the edges; its weights are not looked at.
        rows: int64 ``[E]``: the row that an edge's sender has among the senders' features.
            ``graph.senders``, but for keys, where a group of ``group`` lanes that follow each other
            shares the rows of one.
        group: lanes that share rows.
    """

    graph: AttentionGraph
    rows: Tensor
    group: int = 1

    @classmethod
    def of(cls, graph: AttentionGraph, group: int = 1) -> Ends:
        if group == 1:
            return cls(graph, graph.senders)
        size = max(graph.num_senders, 1)
        shared = torch.div(graph.sender_lane, group, rounding_mode="floor")
        return cls(graph, shared * graph.num_senders + graph.senders % size, group)

    @property
    def num_rows(self) -> int:
        return self.graph.num_lanes // self.group * self.graph.num_senders

    def repeated(self, size: int) -> Ends:
        """So many copies of the graph beside each other, one a sample."""
        return self.graph.derived(
            f"repeated {size} {self.group}", lambda: Ends.of(repeat(self.graph, size), self.group)
        )


def repeat(graph: AttentionGraph, size: int) -> AttentionGraph:
    """Copies of a graph as further lanes, weights 1."""
    lanes, edges = graph.num_lanes, graph.num_edges
    number = torch.arange(size, device=graph.device).unsqueeze(-1)
    senders = (graph.senders + number * (lanes * graph.num_senders)).flatten()
    receivers = (graph.receivers + number * (lanes * graph.num_receivers)).flatten()
    sizes = graph.num_senders, graph.num_receivers
    every = AttentionGraph.of_sorted((senders, receivers), None, sizes, (size, *graph.batch_shape))
    order, starts = graph.by_sender
    every.derived(
        "by_sender", lambda: ((order + number * edges).flatten(), _starts(starts, number * edges))
    )
    every.derived("indptr", lambda: _starts(graph.indptr, number * edges))
    return every


def _starts(starts: Tensor, shift: Tensor) -> Tensor:
    return torch.cat(((starts[:-1] + shift).flatten(), starts[-1:] * len(shift)))


def bag(index: Tensor, rows: Tensor, indptr: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum ``weight_e * rows[index_e]`` over each slice of ``indptr``; an empty slice gives 0."""
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        return rows.new_zeros(indptr.shape[0] - 1, rows.shape[1])
    return F.embedding_bag(
        index, rows, indptr, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


class AlongEdges:
    """What the maps of two tensors have in common, ``apply(a, b, ends)``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.ends = inputs
        ctx.save_for_backward(*tensors)


class WeightedSum(AlongEdges, Function):
    """``out_i = sum_e w_e x_j`` over the edges into i."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, ends: Ends) -> Tensor:
        return bag(ends.rows, x, ends.graph.indptr, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), (to_x, to_weight, _) = ctx.saved_tensors, ctx.needs_input_grad
        dx = SumToSenders.apply(grad.contiguous(), weight, ctx.ends) if to_x else None
        return dx, EdgeDots.apply(grad, x, ctx.ends) if to_weight else None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, ends: Ends
    ) -> tuple[Tensor, int]:
        return sum_of_samples(WeightedSum, info.batch_size, in_dims, x, weight, ends)


class SumToSenders(AlongEdges, Function):
    """``out_j = sum_e w_e y_i`` over the edges out of j."""

    @staticmethod
    def forward(y: Tensor, weight: Tensor, ends: Ends) -> Tensor:
        graph = ends.graph
        order, indptr = graph.by_sender
        out = bag(graph.receivers[order], y, indptr, weight[order])
        if ends.group == 1:
            return out
        lanes, width = graph.num_lanes // ends.group, y.shape[1]
        grouped = out.view(lanes, ends.group, graph.num_senders, width)
        return grouped.sum(1).view(lanes * graph.num_senders, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (y, weight), (to_y, to_weight, _) = ctx.saved_tensors, ctx.needs_input_grad
        dy = WeightedSum.apply(grad.contiguous(), weight, ctx.ends) if to_y else None
        return dy, EdgeDots.apply(y, grad, ctx.ends) if to_weight else None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], y: Tensor, weight: Tensor, ends: Ends
    ) -> tuple[Tensor, int]:
        return sum_of_samples(SumToSenders, info.batch_size, in_dims, y, weight, ends)


class EdgeDots(AlongEdges, Function):
    """``<a_i, b_j>`` for every edge, ``[E]``: the gradient of a bag to its weights, which torch
    computes without ``[E, D]`` tensors.
    """

    @staticmethod
    def forward(at_receivers: Tensor, at_senders: Tensor, ends: Ends) -> Tensor:
        graph = ends.graph
        if graph.num_edges == 0 or at_senders.shape[1] == 0:
            return at_senders.new_zeros(graph.num_edges)
        starts = graph.indptr[:-1].contiguous()
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            at_receivers.contiguous(),
            at_senders.contiguous(),
            ends.rows,
            starts,
            graph.receivers,
            0,
            -1,
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        da = WeightedSum.apply(b, grad, ctx.ends) if ctx.needs_input_grad[0] else None
        db = SumToSenders.apply(a, grad, ctx.ends) if ctx.needs_input_grad[1] else None
        return da, db, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], a: Tensor, b: Tensor, ends: Ends
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        dots = EdgeDots.apply(
            join(a, in_dims[0], size), join(b, in_dims[1], size), ends.repeated(size)
        )
        return dots.unflatten(0, (size, -1)), 0


class EdgeSum(Function):
    """``out_i = sum_e values_e`` over the edges into each receiver, or out of each sender, for
    values ``[E, D]``.
    """

    @staticmethod
    def forward(values: Tensor, graph: AttentionGraph, at_senders: bool) -> Tensor:
        if at_senders:
            order, indptr = graph.by_sender
            return bag(order, values, indptr)
        return bag(torch.arange(graph.num_edges, device=graph.device), values, graph.indptr)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, graph, at_senders = inputs
        ctx.index = graph.senders if at_senders else graph.receivers

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.index), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], values: Tensor, graph: AttentionGraph, at_senders: bool
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        return part(EdgeSum.apply(widen(values, in_dims[0], size), graph, at_senders), size), 1


def sum_to_receivers(graph: AttentionGraph, values: Tensor) -> Tensor:
    """``out_i = sum_e values_e`` for values ``[E, D]`` of the edges into i."""
    return EdgeSum.apply(values, graph, False)


def sum_to_senders(graph: AttentionGraph, values: Tensor) -> Tensor:
    """``out_j = sum_e values_e`` for values ``[E, D]`` of the edges out of j."""
    return EdgeSum.apply(values, graph, True)


# ----------------------------------------------------- many samples behind one, for torch.func.vmap


def sum_of_samples(
    kind: Any, size: int, in_dims: tuple[Any, ...], rows: Tensor, weight: Tensor, ends: Ends
) -> tuple[Tensor, int]:
    """A weighted sum of every sample."""
    if in_dims[1] is None:
        return part(kind.apply(widen(rows, in_dims[0], size), weight, ends), size), 1
    every = kind.apply(
        join(rows, in_dims[0], size), join(weight, in_dims[1], size), ends.repeated(size)
    )
    return every.unflatten(0, (size, -1)), 0


def samples_first(value: Tensor, dim: int | None, size: int) -> Tensor:
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


def widen(value: Tensor, dim: int | None, size: int) -> Tensor:
    """Rows ``[N, D]`` of each sample to ``[N, size * D]``."""
    return samples_first(value, dim, size).transpose(0, 1).flatten(1).contiguous()


def part(value: Tensor, size: int) -> Tensor:
    """The inverse: ``[N, size * D]`` to ``[N, size, D]``."""
    return value.unflatten(1, (size, -1))


def join(value: Tensor, dim: int | None, size: int) -> Tensor:
    """Rows ``[N, ...]`` of each sample to ``[size * N, ...]``."""
    return samples_first(value, dim, size).flatten(0, 1).contiguous()
