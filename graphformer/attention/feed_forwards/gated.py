"""The gated feed-forward, which every token goes through by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.feed_forwards.base import FeedForward
from graphformer.errors import probability, whole


class GatedMLP(FeedForward, name="gated"):
    """SwiGLU: ``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202).

    Args:
        hidden_size, intermediate_size: widths of tokens and of hidden units; None: those of the
            block.
        dropout: on the output; None: that of the block, or none.
    """

    def __init__(
        self,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.dropout = probability("dropout", 0.0 if dropout is None else dropout)
        if hidden_size is None or intermediate_size is None:
            return  # for_layer makes it anew, with the sizes of a block
        whole("hidden_size", hidden_size)
        whole("intermediate_size", intermediate_size)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def hidden(self, x: Tensor) -> Tensor:
        """The hidden units ``[*, intermediate_size]``."""
        return F.silu(self.gate_proj(x)) * self.up_proj(x)

    def finished(self, hidden: Tensor) -> Tensor:
        """From the hidden units to the output."""
        return F.dropout(self.down_proj(hidden), self.dropout, self.training)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.finished(self.hidden(x))
