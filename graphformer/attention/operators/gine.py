"""Messages through an activation, with features of their edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator
from graphformer.errors import whole


class GINEOperator(Operator, name="gine"):
    r"""GINE's message (arXiv 1905.12265, section 3.3 and appendix A) with weights of attention:

    .. math:: \mathrm{out}_i = \sum_{(j \to i)} w_{ij}\,\mathrm{relu}(x_j + W_h e_{ij})

    A ReLU before the sum tells apart neighbours that a sum of ``x_j + W e_ij`` adds up to the same.
    Edges without features (a text's, or a layer's without ``edge_dim``) send ``relu(x_j)``. Memory:
    a message for each edge.

    Args:
        num_heads, dim, edge_dim: heads, the width of one, and that of the edges' features; None:
            those of the layer.
    """

    reads_edge_attr = True

    def __init__(
        self, num_heads: int | None = None, dim: int | None = None, edge_dim: int | None = None
    ) -> None:
        super().__init__()
        if edge_dim == -1:
            raise ValueError("edge_dim=-1: operator='gine' has a map of that width; give the width")
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        whole("num_heads", num_heads)
        whole("dim", dim)
        self.edge_map = None
        if edge_dim is not None:
            self.edge_map = nn.Parameter(torch.empty(num_heads, whole("edge_dim", edge_dim), dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        if self.edge_map is not None:
            bound = self.edge_map.shape[1] ** -0.5
            nn.init.uniform_(self.edge_map, -bound, bound)

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        message = edges.at_senders(x)
        if self.edge_map is not None and edges.edge_attr is not None:
            # edges stand head by head
            counts = torch.bincount(edges.pairs.head, minlength=edges.heads).tolist()
            parts = edges.edge_attr.to(x.dtype).split(counts)
            maps = self.edge_map.to(x.dtype).unbind()
            added = [part @ own_map for part, own_map in zip(parts, maps, strict=True)]
            message = message + torch.cat(added)
        return edges.sum(edges.weight.to(x.dtype) * F.relu(message))
