"""Aggregation by torch-sparse's ``SparseTensor``, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer.errors import require
from graphformer.graph import AttentionGraph


class TorchSparseBackend:
    name = "torch_sparse"

    def __init__(self) -> None:
        require("torch_scatter", extra="torch-sparse", why="backend='torch_sparse'")
        self._sparse = require("torch_sparse", extra="torch-sparse", why="backend='torch_sparse'")

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        if x.is_cuda and not torch.ops.torch_sparse.cuda_version() > 0:
            raise RuntimeError(
                f"backend='torch_sparse' got tensors on {x.device}, but the installed torch-sparse is a CPU build; "
                "build it with CUDA, or choose backend='torch'"
            )

    def _matrix(self, graph: AttentionGraph, value: Tensor | None) -> Any:
        return self._sparse.SparseTensor(
            row=graph.receivers,
            rowptr=graph.indptr,
            col=graph.senders,
            value=value,
            sparse_sizes=(graph.num_lanes * graph.num_receivers, graph.num_lanes * graph.num_senders),
            is_sorted=True,
            trust_data=True,
        )

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._sparse.matmul(self._matrix(graph, graph.weight), x, reduce="sum")

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        deviation = (x[graph.senders] - center[graph.receivers]) ** 2
        return self._matrix(graph, graph.weight.unsqueeze(-1) * deviation).sum(dim=1)

    @torch.no_grad()
    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._sparse.matmul(self._matrix(graph, None), x, reduce="max")
