"""Aggregation by PyG's own message passing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from graphformer.backends.torch import sign
from graphformer.graph import AttentionGraph
from graphformer.graph.counts import magnitude


class WeightedSum(MessagePassing):
    """``sum_e w_e x_j``: the aggregation of GINConv with the edge weights that GINConv itself does
    not take.
    """

    def __init__(self) -> None:
        super().__init__(aggr="sum", flow="source_to_target")

    def forward(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self.propagate(graph.edge_index, x=(x, None), weight=graph.weight, size=sizes(graph))

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight.unsqueeze(-1) * x_j


class WeightedDeviation(MessagePassing):
    """``sum_e |w_e| (sign(w_e) x_j - c_i)^2``."""

    def __init__(self) -> None:
        super().__init__(aggr="sum", flow="source_to_target")

    def forward(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        return self.propagate(
            graph.edge_index,
            x=(x, center),
            weight=magnitude(graph.weight),
            signs=sign(graph.weight),
            size=sizes(graph),
        )

    def message(self, x_j: Tensor, x_i: Tensor, weight: Tensor, signs: Tensor) -> Tensor:
        return weight.unsqueeze(-1) * (signs * x_j - x_i) ** 2


class Largest(MessagePassing):
    """``max_e x_j``."""

    def __init__(self) -> None:
        super().__init__(aggr="max", flow="source_to_target")

    def forward(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self.propagate(graph.edge_index, x=(x, None), size=sizes(graph))

    def message(self, x_j: Tensor) -> Tensor:
        return x_j


def sizes(graph: AttentionGraph) -> tuple[int, int]:
    return graph.num_lanes * graph.num_senders, graph.num_lanes * graph.num_receivers


class PyGBackend:
    name = "pyg"

    def __init__(self) -> None:
        self._sum, self._deviation, self._largest = WeightedSum(), WeightedDeviation(), Largest()

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        """Runs wherever torch runs."""

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._sum(graph, x)

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        return self._deviation(graph, x, center)

    @torch.no_grad()
    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._largest(graph, x)
