"""Classic layers with what is known to help them: GIN+ and GatedGCN+ (arXiv 2502.09263)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm, GINEConv, MessagePassing


def gine(hidden_size: int, edge_hidden: int) -> GINEConv:
    mlp = nn.Sequential(
        nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, hidden_size)
    )
    return GINEConv(mlp, train_eps=True, edge_dim=edge_hidden)


class GatedGCN(MessagePassing):
    r"""Gated graph convolution that updates edges too (arXiv 1711.07553, 2003.00982):

    .. math::
        e'_{ji} = A e_{ji} + B x_i + C x_j, \qquad x'_i = U x_i +
        \frac{\sum_j \sigma(e'_{ji}) \odot V x_j}{\sum_j \sigma(e'_{ji}) + 10^{-6}}

    PyG's ResGatedGraphConv has the gates, but not their sum below, and no edges to hand on.

    Args:
        width: of nodes ``[N, width]`` and of edges ``[E, width]``.
    """

    def __init__(self, width: int) -> None:
        super().__init__(aggr="add")
        self.edge, self.receiver, self.sender = (nn.Linear(width, width) for _ in range(3))
        self.own, self.value = (nn.Linear(width, width) for _ in range(2))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """The new nodes and the new edges."""
        senders, receivers = edge_index
        edges = self.edge(edge_attr) + self.receiver(x)[receivers] + self.sender(x)[senders]
        both = self.propagate(edge_index, value=self.value(x), gate=edges.sigmoid())
        above, below = both.chunk(2, -1)
        return self.own(x) + above / (below + 1e-6), edges

    def message(self, value_j: Tensor, gate: Tensor) -> Tensor:
        return torch.cat((gate * value_j, gate), -1)


class PlusBlock(nn.Module):
    """A classic layer and, as in the authors' code, what follows it::

        x = x + dropout(relu(norm(layer(x))))       nodes, and edges where the layer updates them
        x = norm(x)
        x = norm(x + dropout(W2 dropout(relu(W1 x))))

    Norms are over the batch; where there is but one row to learn from, they use what they have
    learned.

    Args:
        body: ``"gin-plus"``: PyG's GINEConv, edges ``[E, edge_hidden]``. ``"gatedgcn-plus"``:
            :class:`GatedGCN`, edges ``[E, hidden_size]``.
        last: whether no block follows, so that nobody reads the edges.
    """

    def __init__(
        self, body: str, hidden_size: int, edge_hidden: int, dropout: float, last: bool
    ) -> None:
        super().__init__()
        self.dropout, gated = dropout, body == "gatedgcn-plus"
        self.conv = GatedGCN(hidden_size) if gated else gine(hidden_size, edge_hidden)
        self.norm, self.before, self.after = (norm(hidden_size) for _ in range(3))
        self.edge_norm = norm(hidden_size) if gated and not last else None
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * hidden_size, hidden_size),
            nn.Dropout(dropout),
        )

    def forward(
        self, h: Tensor, edge_index: Tensor, batch: Tensor, edge_attr: Tensor
    ) -> tuple[Tensor, Tensor]:
        new, edges = self.conv(h, edge_index, edge_attr), None
        if isinstance(self.conv, GatedGCN):
            new, edges = new
        if self.edge_norm is not None:
            edge_attr = edge_attr + self._drop(self.edge_norm(edges).relu())
        h = self.before(h + self._drop(self.norm(new).relu()))
        return self.after(h + self.feed_forward(h)), edge_attr

    def _drop(self, value: Tensor) -> Tensor:
        return F.dropout(value, self.dropout, self.training)


def norm(width: int) -> nn.Module:
    return BatchNorm(width, allow_single_element=True)
