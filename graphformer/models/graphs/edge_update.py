"""Features of pairs that change from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.errors import require_flag
from graphformer.models.graphs.data import Level
from graphformer.nn.edge_list import EdgeList


class EdgeUpdate(nn.Module):
    r"""The features of a pair from its two ends, in a residual block:

    .. math::
        e_{ji} \leftarrow e_{ji} + W\, \mathrm{silu}(W_e\, \mathrm{norm}(e_{ji})
        + W_r\, \mathrm{norm}(h_i) + W_s\, \mathrm{norm}(h_j) + b) + b'

    Linear in pairs; what the nodes send to it is mapped before it is gathered. As GatedGCN has it
    (arXiv 1711.07553), without the batch norm.

    Args:
        hidden_size: width of nodes ``[N, hidden_size]``.
        edge_hidden: width of pairs ``[E, edge_hidden]``.
        dropout: on what is added.
    """

    def __init__(self, hidden_size: int, edge_hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.node_norm, self.edge_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(edge_hidden)
        self.receiver = nn.Linear(hidden_size, edge_hidden)
        self.sender = nn.Linear(hidden_size, edge_hidden, bias=False)
        self.edge = nn.Linear(edge_hidden, edge_hidden, bias=False)
        self.out, self.dropout = nn.Linear(edge_hidden, edge_hidden), dropout

    def forward(self, features: Tensor, h: Tensor, edges: EdgeList) -> Tensor:
        """``[E, edge_hidden]``."""
        x = self.node_norm(h)
        ends = self.receiver(x)[edges.receivers] + self.sender(x)[edges.senders]
        new = self.out(F.silu(self.edge(self.edge_norm(features)) + ends))
        return features + F.dropout(new, self.dropout, self.training)

    def of(self, level: Level, spec: str) -> None:
        """Update those of a level's candidates, dropped ones too."""
        edges, features, given = level.pairs[spec]
        assert features is not None, "checked by check_edge_update"
        level.pairs[spec] = edges, self(features, level.h, edges), given


def check_edge_update(edge_update: bool, candidates: Sequence[str], described: bool) -> None:
    """ValueError where there is nothing to update, or nobody would read it."""
    require_flag("edge_update", edge_update)
    if not edge_update:
        return
    if len(candidates) == 1:
        raise ValueError(
            "edge_update=True is never read: with num_layers=1 no layer follows the update; give "
            "more layers, or leave it out"
        )
    if not described:
        raise ValueError(
            "edge_update=True updates features of pairs, and these have none: give edge_dim, or an "
            "encoding of pairs such as 'shortest_path:4'"
        )
    if len(set(candidates)) > 1:
        raise ValueError(
            f"edge_update=True hands features from layer to layer, and candidates={candidates} are "
            "others in some layers: give one text for all of them"
        )
