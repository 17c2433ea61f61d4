"""The score of GATConv: a number for the receiver plus one for the sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score, at_pairs, per_head
from graphformer.graph import AttentionGraph

SLOPE = 0.2


class AdditiveScore(nn.Module, Score, name="additive"):
    r"""``s_e = LeakyReLU(<a_h, v_i> + <b_h, v_j>)`` on values ``v``, with slope 0.2 below 0.

    It is the score of arXiv 1710.10903, eq. 3, with ``2 d`` parameters a head, where queries and
    keys have ``2 d`` times the width of the input.

    Args:
        num_heads: heads ``H``. dim: width ``d`` of one. None: those of the layer.
    """

    projects = False
    scaled = True
    glorot_values = True
    reads_hidden = False  # the heads' values, whose width is the layer's own
    attribute = "additive"

    def __init__(self, num_heads: int | None = None, dim: int | None = None) -> None:
        super().__init__()
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.receiver = nn.Parameter(torch.empty(num_heads, dim))
        self.sender = nn.Parameter(torch.empty(num_heads, dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """As GATConv: uniform, Glorot's bound for a matrix ``[H, d]``."""
        nn.init.xavier_uniform_(self.receiver)
        nn.init.xavier_uniform_(self.sender)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """What stands for queries and keys: ``[B, H, N, 1]`` each, from the nodes' values."""
        heads = len(self.receiver)
        q, k = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (q, k))
        return q @ self.receiver.unsqueeze(-1), k @ self.sender.unsqueeze(-1)

    def of_call(
        self, sharpening: Tensor | None = None, previous: AttentionGraph | None = None
    ) -> Score:
        return Additive(1.0 if sharpening is None else sharpening)


@dataclass(frozen=True, eq=False)
class Additive(Score):
    """``s_ij = sharpening * LeakyReLU(q_i + k_j)`` of numbers ``q`` and ``k`` ``[B, H, N, 1]``."""

    sharpening: Tensor | float = 1.0
    projects = False

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        both = (pairs.at_receivers(q) + pairs.at_senders(k)).squeeze(-1)
        scores = F.leaky_relu(both, SLOPE)
        factor = per_head("sharpening", self.sharpening, tuple(q.shape), rows=True)
        if not isinstance(factor, Tensor):
            return scores if factor == 1.0 else scores * factor
        return scores * at_pairs(factor.to(scores.dtype), pairs)
