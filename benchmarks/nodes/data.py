"""Six public graphs with their published splits, and the part of a graph that a training step
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import stochastic_blockmodel_graph, to_undirected

Hop = tuple[Tensor, Tensor | None]
"""Edges of one layer, numbered in the nodes that it reads, and which of these nodes the next layer
reads (None: all).
"""


@dataclass(frozen=True)
class Graph:
    """Nodes of one graph, split for one repeat.

    Attributes:
        x: ``[N, features]``; sparse (CSR) where almost all are 0.
        y: int64 ``[N]``.
        edge_index: ``[2, E]``, both directions of every edge.
        train, valid, test: numbers of the nodes of each part.
    """

    x: Tensor
    y: Tensor
    edge_index: Tensor
    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


def planetoid(folder: Path, name: str) -> Graph:
    """Cora or CiteSeer with the public split and row-normalised features (arXiv 1603.08861)."""
    from torch_geometric.io import read_planetoid_data

    data = read_planetoid_data(str(folder / "planetoid" / name / "raw"), name)
    x = data.x / data.x.sum(1, keepdim=True).clamp(min=1)
    parts = (mask.nonzero().squeeze(1) for mask in (data.train_mask, data.val_mask, data.test_mask))
    return Graph(x.to_sparse_csr(), data.y, data.edge_index, *parts)


def heterophilous(folder: Path, name: str, split: int) -> Graph:
    """One of the ten splits of a heterophilous graph (arXiv 2302.11640)."""
    with np.load(folder / "heterophilous" / f"{name}.npz") as file:
        edge_index = to_undirected(torch.from_numpy(file["edges"]).long().t().contiguous())
        parts = (
            torch.from_numpy(file[f"{part}_masks"][split]).nonzero().squeeze(1)
            for part in ("train", "val", "test")
        )
        x, y = (
            torch.from_numpy(file["node_features"]).float(),
            torch.from_numpy(file["node_labels"]).long(),
        )
        if x.count_nonzero() < x.numel() / 10:
            x = x.to_sparse_csr()
        return Graph(x, y, edge_index, *parts)


def made(split: int) -> Graph:
    """A small graph drawn from a stochastic block model, for a quick look whether all runs."""
    with torch.random.fork_rng():
        torch.manual_seed(split)
        y = torch.arange(2).repeat_interleave(30)
        edge_index = stochastic_blockmodel_graph(
            [30, 30], torch.full((2, 2), 0.02) + 0.2 * torch.eye(2), directed=False
        )
        return Graph(
            torch.rand(60, 11) + F.one_hot(y, 11), y, edge_index, *torch.randperm(60).split(20)
        )


class Neighbourhood:
    """What two layers need to know of a graph to answer for a few nodes: the edges into them, and
    into the senders of those.

    Args:
        edge_index: ``[2, E]``.
        num_nodes: N.
        limit: at most so many edges into a node, drawn anew every time; None: all, and the answer
            is that of the whole graph.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, limit: int | None) -> None:
        senders, receivers = edge_index
        self.senders = senders[torch.argsort(receivers, stable=True)]
        self.degree = torch.bincount(receivers, minlength=num_nodes)
        self.first = self.degree.cumsum(0) - self.degree
        self.limit, self.number = limit, torch.empty(num_nodes, dtype=torch.long)

    def edges(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Senders and receivers of edges into ``nodes``."""
        degree = self.degree[nodes]
        if self.limit is None:
            row = torch.repeat_interleave(degree)
            place = torch.arange(len(row)) - (degree.cumsum(0) - degree)[row]
        else:
            every = torch.arange(self.limit).expand(len(nodes), -1)
            # an edge drawn twice is one edge
            drawn = (torch.rand(every.shape) * degree.unsqueeze(1)).long()
            many = degree.unsqueeze(1) > self.limit
            row, column = (many | (every < degree.unsqueeze(1))).nonzero(as_tuple=True)
            place = torch.where(many, drawn, every)[row, column]
        number = torch.unique(self.first[nodes][row] + place)
        return self.senders[number], torch.searchsorted(
            self.first + self.degree, number, right=True
        )

    def hops(self, seeds: Tensor, layers: int) -> tuple[Tensor, list[Hop]]:
        """The nodes whose features the first layer reads, and the edges of each layer, the first
        one first.
        """
        nodes, found = seeds, []
        for _ in range(layers):
            senders, receivers = self.edges(nodes)
            read = torch.unique(torch.cat((nodes, senders)))
            self.number[read] = torch.arange(len(read))
            found.append(
                (torch.stack((self.number[senders], self.number[receivers])), self.number[nodes])
            )
            nodes = read
        return nodes, found[::-1]


def rows(x: Tensor, nodes: Tensor) -> Tensor:
    """``x[nodes]``, of a sparse x too."""
    if x.layout == torch.strided:
        return x[nodes]
    return x.to_sparse_coo().index_select(0, nodes).to_sparse_csr()


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout; of a sparse x on the values, for the others are 0 before and after."""
    if x.layout == torch.strided or not training:
        return F.dropout(x, p, training) if x.layout == torch.strided else x
    return torch.sparse_csr_tensor(
        x.crow_indices(), x.col_indices(), F.dropout(x.values(), p), x.shape
    )
