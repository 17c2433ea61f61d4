"""Aggregation in plain torch: always there, and the default."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.graph import AttentionGraph


class TorchBackend:
    name = "torch"

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        """Runs wherever torch runs."""

    def _sum(self, graph: AttentionGraph, messages: Tensor) -> Tensor:
        out = messages.new_zeros(graph.num_lanes * graph.num_receivers, messages.shape[-1])
        return out.index_add(0, graph.receivers, messages)

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._sum(graph, graph.weight.unsqueeze(-1) * x[graph.senders])

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        return self._sum(graph, graph.weight.unsqueeze(-1) * (x[graph.senders] - center[graph.receivers]) ** 2)

    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        out = x.new_zeros(graph.num_lanes * graph.num_receivers, x.shape[-1])
        index = graph.receivers.unsqueeze(-1).expand(-1, x.shape[-1])
        return torch.scatter_reduce(out, 0, index, x[graph.senders], "amax", include_self=False)
