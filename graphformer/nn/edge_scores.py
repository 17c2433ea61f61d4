"""The score of GATConv: a number for the receiver plus one for the sender."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORES = ("dot", "additive")
SLOPE = 0.2


class AdditiveScore(nn.Module):
    r"""``s_e = LeakyReLU(<a_h, v_i> + <b_h, v_j>)`` on values ``v``, with slope 0.2 below 0.

    It is the score of arXiv 1710.10903, eq. 3, with ``2 d`` parameters a head, where queries and
    keys have ``2 d`` times the width of the input.

    Args:
        num_heads: heads ``H``.
        dim: width ``d`` of one.
    """

    def __init__(self, num_heads: int, dim: int) -> None:
        super().__init__()
        self.receiver = nn.Parameter(torch.empty(num_heads, dim))
        self.sender = nn.Parameter(torch.empty(num_heads, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As GATConv: uniform, Glorot's bound for a matrix ``[H, d]``."""
        nn.init.xavier_uniform_(self.receiver)
        nn.init.xavier_uniform_(self.sender)

    def halves(self, own: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for queries and keys: ``[H, N, 1]`` each."""
        return own @ self.receiver.unsqueeze(-1), values @ self.sender.unsqueeze(-1)

    @staticmethod
    def on_edges(receiver: Tensor, sender: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """The halves' sums ``[H * E]`` on edges ``[E]``, the edges of one head together."""
        both = receiver.squeeze(-1).index_select(1, receivers) + sender.squeeze(-1).index_select(
            1, senders
        )
        return F.leaky_relu(both, SLOPE).reshape(-1)
