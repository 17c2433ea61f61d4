"""Aggregation by torch-sparse's ``SparseTensor``, where it is installed.

The gradients are the torch backend's: those of torch-sparse's own kernels have no derivative, and
say 0 where they are asked for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer.backends.sums import EdgeSum, Ends, WeightedSum
from graphformer.backends.torch import sign
from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.graph.counts import magnitude


def matrix(graph: AttentionGraph, value: Tensor | None) -> Any:
    """The graph as a ``SparseTensor`` with receivers in rows."""
    import torch_sparse

    return torch_sparse.SparseTensor(
        row=graph.receivers,
        rowptr=graph.indptr,
        col=graph.senders,
        value=value,
        sparse_sizes=(graph.num_lanes * graph.num_receivers, graph.num_lanes * graph.num_senders),
        is_sorted=True,
        trust_data=True,
    )


class SparseSum(WeightedSum):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, ends: Ends) -> Tensor:
        return matrix(ends.graph, weight).matmul(x, reduce="sum")


class SparseEdgeSum(EdgeSum):
    @staticmethod
    def forward(values: Tensor, graph: AttentionGraph, at_senders: bool) -> Tensor:
        return matrix(graph, values).sum(dim=1)


class TorchSparseBackend:
    name = "torch_sparse"

    def __init__(self) -> None:
        require("torch_scatter", extra="torch-sparse", why="backend='torch_sparse'")
        require("torch_sparse", extra="torch-sparse", why="backend='torch_sparse'")

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        if x.is_cuda and not torch.ops.torch_sparse.cuda_version() > 0:
            raise RuntimeError(
                f"backend='torch_sparse' got tensors on {x.device}, but the installed torch-sparse "
                "is a CPU build; build it with CUDA, or choose backend='torch'"
            )

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return SparseSum.apply(x, graph.weight, Ends.of(graph))

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        deviation = (sign(graph.weight) * x[graph.senders] - center[graph.receivers]) ** 2
        return SparseEdgeSum.apply(magnitude(graph.weight).unsqueeze(-1) * deviation, graph, False)

    @torch.no_grad()
    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return matrix(graph, None).matmul(x, reduce="max")
