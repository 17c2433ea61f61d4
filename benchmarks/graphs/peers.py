"""The other bodies: what PyG's users would take, and classic layers at their best. Features,
encodings, readout, head, loss and training are those of our model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GPSConv

from benchmarks.graphs.classic import PlusBlock, gine
from graphformer.errors import require_known
from graphformer.models.graphs.base import GraphNetwork, GraphTransformerOutput
from graphformer.models.graphs.targets import TargetHead


class GINEBlock(nn.Module):
    """``h + dropout(relu(batch_norm(GINE(h))))`` (arXiv 1905.12265)."""

    def __init__(self, hidden_size: int, edge_hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout = (
            gine(hidden_size, edge_hidden),
            nn.BatchNorm1d(hidden_size),
            dropout,
        )

    def forward(
        self, h: Tensor, edge_index: Tensor, batch: Tensor, edge_attr: Tensor
    ) -> tuple[Tensor, Tensor]:
        new = self.conv(h, edge_index, edge_attr)
        if len(new) > 1 or not self.training:  # one row has no spread to learn from
            new = self.norm(new)
        return h + F.dropout(new.relu(), self.dropout, self.training), edge_attr


class GPSBlock(nn.Module):
    """PyG's GPSConv as it comes: GINE on the edges beside attention between all nodes of a graph
    (arXiv 2205.12454).
    """

    def __init__(self, hidden_size: int, num_heads: int, edge_hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv = GPSConv(
            hidden_size, gine(hidden_size, edge_hidden), heads=num_heads, dropout=dropout
        )

    def forward(
        self, h: Tensor, edge_index: Tensor, batch: Tensor, edge_attr: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.conv(h, edge_index, batch, edge_attr=edge_attr), edge_attr


BODIES = ("gine", "gps", "gin-plus", "gatedgcn-plus")


class Peer(GraphNetwork):
    """A stack of blocks between the two ends of our model. ``body``: ``"gine"`` or ``"gps"``
    (blocks of PyG), ``"gin-plus"`` or ``"gatedgcn-plus"``
    (:class:`~benchmarks.graphs.classic.PlusBlock`); the others as in GraphTransformer.
    """

    def __init__(
        self,
        body: str,
        node_dim: int | Sequence[int],
        edge_dim: int | Sequence[int],
        hidden_size: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        target: str = "graph",
        out_dim: int = 1,
        task: str = "regression",
        *,
        loss: str = "mse",
        encodings: Sequence[str] = ("degree",),
        edge_hidden: int = 16,
        readout: Sequence[str] = ("mean", "max", "sum"),
        dropout: float = 0.0,
    ) -> None:
        settings = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        require_known("body", body, BODIES)
        if edge_dim is None:
            raise ValueError("edge_dim=None: peers read edge features; give edge_dim, 0 for none")
        ends: dict[str, Any] = {
            "loss": loss,
            "encodings": encodings,
            "edge_hidden": edge_hidden,
            "readout": readout,
            "dropout": dropout,
        }
        super().__init__(
            node_dim, edge_dim, hidden_size, target, out_dim, task, global_dim=0, **ends
        )
        self.settings = settings
        # GatedGCN's edges are as wide as its nodes
        self.widen = nn.Linear(edge_hidden, hidden_size) if body == "gatedgcn-plus" else None

        def block(last: bool) -> nn.Module:
            if body == "gine":
                return GINEBlock(hidden_size, edge_hidden, dropout)
            if body == "gps":
                return GPSBlock(hidden_size, num_heads, edge_hidden, dropout)
            return PlusBlock(body, hidden_size, edge_hidden, dropout, last)

        self.layers = nn.ModuleList(block(i == num_layers - 1) for i in range(num_layers))

    def forward(self, data: Any, *, output_graphs: bool = False) -> GraphTransformerOutput:
        level = self.embed(data)
        edge_index = torch.stack((level.structure.senders, level.structure.receivers))
        edges = level.edge_features if self.widen is None else self.widen(level.edge_features)
        for layer in self.layers:
            level.h, edges = layer(level.h, edge_index, level.structure.graph, edges)
        return self.answer([level], data)


class CNN(GraphNetwork):
    """A convolutional network on ``data.image`` ``[graphs, channels, side, side]``, for data sets
    whose graphs were images.

    Three stages of two 3 x 3 convolutions with batch norm, each followed by a maximum over 2 x 2,
    and a hidden layer of 128 on the flattened rest.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        width: int = 32,
        out_dim: int = 1,
        *,
        loss: str = "mse",
        dropout: float = 0.0,
    ) -> None:
        settings = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        ends: dict[str, Any] = {
            "encodings": (),
            "edge_hidden": 1,
            "global_dim": 0,
            "readout": ("mean",),
            "dropout": dropout,
        }
        super().__init__(0, None, 128, "graph", out_dim, "regression", loss=loss, **ends)
        self.settings = {"node_dim": 0, "edge_dim": None, "target": "graph", **settings}
        stages: list[nn.Module] = []
        wide = channels
        for factor in (1, 2, 4):
            for _ in range(2):
                stages += [
                    nn.Conv2d(wide, factor * width, 3, padding=1),
                    nn.BatchNorm2d(factor * width),
                    nn.ReLU(),
                ]
                wide = factor * width
            stages.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*stages, nn.Flatten())
        self.readout = None  # the flattened image is read, place by place
        self.heads = nn.ModuleDict(
            {"y": TargetHead(wide * (side // 8) ** 2, 128, self.targets["y"], dropout)}
        )

    def _predict(self, levels: Any, data: Any) -> dict[str, Tensor]:
        return {"y": self.heads["y"](self.body(data.image))}

    def forward(self, data: Any, *, output_graphs: bool = False) -> GraphTransformerOutput:
        return self.answer([], data)
