"""The gated feed-forward of a block, and the heads' MLPs under the name they have in ``gf.nn``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.operators.head_mlp import HeadMLP
from graphformer.errors import probability, whole

__all__ = ["GatedMLP", "HeadMLP", "probability"]


class GatedMLP(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        whole("hidden_size", hidden_size)
        whole("intermediate_size", intermediate_size)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.dropout = probability("dropout", dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return F.dropout(hidden, self.dropout, self.training)
