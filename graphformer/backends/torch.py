"""Aggregation in plain torch: always there, and the default.

A sum over each receiver's edges is an embedding bag in compressed-row order. That never holds the
``[E, D]`` messages of a gather and scatter, and its gradient is the same bag in the senders' order.
The readable twin of every reduction is :func:`graphformer.attention.executors.dense.reduce`; the
sums themselves, which can be differentiated any number of times, are in
:mod:`graphformer.backends.sums`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer import finite
from graphformer.autograd import Function
from graphformer.backends.sums import (
    Ends,
    WeightedSum,
    bag,
    join,
    part,
    sum_to_receivers,
    sum_to_senders,
    widen,
)
from graphformer.graph import AttentionGraph
from graphformer.graph.counts import magnitude


class WeightedDeviation(Function):
    """``out_i = sum_e |w_e| (sign(w_e) x_j - c_i)^2``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, center: Tensor, graph: AttentionGraph) -> Tensor:
        deviation = torch.addcmul(
            x.index_select(0, graph.senders),
            sign(weight),
            center.index_select(0, graph.receivers),
            value=-1,
        )
        return bag(
            torch.arange(graph.num_edges, device=graph.device),
            deviation.square_(),
            graph.indptr,
            magnitude(weight),
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.graph = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, center = ctx.saved_tensors
        graph = ctx.graph
        if not (torch.is_grad_enabled() or finite.transformed()):
            return *first_slopes(graph, x, weight, center, grad), None
        signs = sign(weight)
        deviation = torch.addcmul(
            x.index_select(0, graph.senders),
            signs,
            center.index_select(0, graph.receivers),
            value=-1,
        )
        slope = grad.index_select(0, graph.receivers) * deviation  # [E, D]
        dw = (slope * deviation).sum(-1) * signs.squeeze(-1)
        slope = slope * (2 * magnitude(weight).unsqueeze(-1))
        dx = sum_to_senders(graph, slope)
        return dx, dw, -sum_to_receivers(graph, slope * signs), None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        x: Tensor,
        weight: Tensor,
        center: Tensor,
        graph: AttentionGraph,
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        if in_dims[1] is None:  # samples beside each other, as more channels
            out = WeightedDeviation.apply(
                widen(x, in_dims[0], size), weight, widen(center, in_dims[2], size), graph
            )
            return part(out, size), 1
        every = Ends.of(graph).repeated(size).graph
        rows = (
            join(x, in_dims[0], size),
            join(weight, in_dims[1], size),
            join(center, in_dims[2], size),
        )
        return WeightedDeviation.apply(*rows, every).unflatten(0, (size, -1)), 0


def first_slopes(
    graph: AttentionGraph, x: Tensor, weight: Tensor, center: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of :class:`WeightedDeviation` where none of them is to be differentiated: one
    ``[E, D]`` tensor is used again.
    """
    signs = sign(weight)
    deviation = x.index_select(0, graph.senders).addcmul_(
        signs, center.index_select(0, graph.receivers), value=-1
    )
    slope = grad.index_select(0, graph.receivers).mul_(deviation)
    # Not into deviation: torch's vectorized jacobian gives many gradients at once, which do not fit
    # into its memory.
    dw = (deviation * slope).sum(-1) * signs.squeeze(-1)
    order, starts = graph.by_sender
    dx = bag(order, slope, starts, 2 * magnitude(weight)[order])
    return (
        dx,
        dw,
        bag(torch.arange(graph.num_edges, device=graph.device), slope, graph.indptr, -2 * weight),
    )


def sign(weight: Tensor) -> Tensor:
    """1 for weights of 0 and more, -1 below, ``[E, 1]``."""
    return torch.where(weight < 0, -1.0, 1.0).to(weight.dtype).unsqueeze(-1)


class TorchBackend:
    name = "torch"

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        """Runs wherever torch runs."""

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return WeightedSum.apply(x, graph.weight, Ends.of(graph))

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        return WeightedDeviation.apply(x, graph.weight, center, graph)

    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        # Not a bag: torch's bag of maxima on the CPU takes twice the time of a gather and a
        # scatter.
        out = x.new_zeros(graph.num_lanes * graph.num_receivers, x.shape[-1])
        index = graph.receivers.unsqueeze(-1).expand(-1, x.shape[-1])
        return out.scatter_reduce(
            0, index, x.index_select(0, graph.senders), "amax", include_self=False
        )
