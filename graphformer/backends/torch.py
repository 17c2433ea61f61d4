"""Aggregation in plain torch: always there, and the default.

A sum over each receiver's edges is an embedding bag in compressed-row order. That never holds the ``[E, D]`` messages of a gather and
scatter, and its gradient is the same bag in the senders' order. The readable twin of every reduction is
:func:`graphformer.attention.dense.reduce`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from graphformer.graph import AttentionGraph


def bag(index: Tensor, rows: Tensor, indptr: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum ``weight_e * rows[index_e]`` over each slice of ``indptr``; an empty slice gives 0."""
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        return rows.new_zeros(indptr.shape[0] - 1, rows.shape[1])
    return F.embedding_bag(index, rows, indptr, mode="sum", per_sample_weights=weight, include_last_offset=True)


def sum_to_receivers(graph: AttentionGraph, values: Tensor, weight: Tensor | None = None) -> Tensor:
    """``out_i = sum_e weight_e values_e`` for values ``[E, D]`` of the edges into i."""
    return bag(torch.arange(graph.num_edges, device=graph.device), values, graph.indptr, weight)


def sum_to_senders(graph: AttentionGraph, values: Tensor) -> Tensor:
    """``out_j = sum_e values_e`` for values ``[E, D]`` of the edges out of j."""
    order, indptr = graph.by_sender
    return bag(order, values, indptr)


def edge_dots(at_receivers: Tensor, at_senders: Tensor, senders: Tensor, graph: AttentionGraph) -> Tensor:
    """``<a_i, b_j>`` for every edge, ``[E]``: the gradient of a bag to its weights, which torch computes without ``[E, D]`` tensors."""
    if graph.num_edges == 0 or at_senders.shape[1] == 0:
        return at_senders.new_zeros(graph.num_edges)
    starts = graph.indptr[:-1].contiguous()
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        at_receivers.contiguous(), at_senders.contiguous(), senders, starts, graph.receivers, 0, -1
    )


class WeightedSum(Function):
    """``out_i = sum_e w_e x_j``, with both gradients linear in the edges and no ``[E, D]`` tensor for x's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, graph: AttentionGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x, weight)
        return bag(graph.senders, x, graph.indptr, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        graph, dx, dw = ctx.graph, None, None
        if ctx.needs_input_grad[0]:
            order, indptr = graph.by_sender
            dx = bag(graph.receivers[order], grad.contiguous(), indptr, weight[order])
        if ctx.needs_input_grad[1]:
            dw = edge_dots(grad, x, graph.senders, graph)
        return dx, dw, None


class WeightedDeviation(Function):
    """``out_i = sum_e w_e (x_j - c_i)^2``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, center: Tensor, graph: AttentionGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x, weight, center)
        return sum_to_receivers(graph, (x.index_select(0, graph.senders) - center.index_select(0, graph.receivers)).square_(), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, center = ctx.saved_tensors
        graph = ctx.graph
        deviation = x.index_select(0, graph.senders) - center.index_select(0, graph.receivers)
        slope = grad.index_select(0, graph.receivers) * deviation  # [E, D]
        dw = (slope * deviation).sum(-1)
        slope *= 2 * weight.unsqueeze(-1)
        return sum_to_senders(graph, slope), dw, -sum_to_receivers(graph, slope), None


class TorchBackend:
    name = "torch"

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        """Runs wherever torch runs."""

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return WeightedSum.apply(x, graph.weight, graph)

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        return WeightedDeviation.apply(x, graph.weight, center, graph)

    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        # Not a bag: torch's bag of maxima on the CPU takes twice the time of a gather and a scatter.
        out = x.new_zeros(graph.num_lanes * graph.num_receivers, x.shape[-1])
        index = graph.receivers.unsqueeze(-1).expand(-1, x.shape[-1])
        return out.scatter_reduce(0, index, x.index_select(0, graph.senders), "amax", include_self=False)
