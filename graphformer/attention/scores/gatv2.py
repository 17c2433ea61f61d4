"""GATv2: a small network of queries and keys, one vector a head."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import require_known


class GATv2(nn.Module, Score, name="gatv2"):
    r"""``s_hij = <u_h, LeakyReLU(q_hi + k_hj)>``, slope 0.2 below 0 (arXiv 2105.14491, eq. 7); with
    ``activation="tanh"`` the score of pointer networks (arXiv 1506.03134, eq. 3).

    :math:`q = W_r x` and :math:`k = W_s x` are the layer's projections, so its linear map of the
    concatenated vectors falls apart into theirs. Each pair needs ``H d`` numbers meanwhile.

    Args:
        num_heads, dim: heads and the width of one; None: those of the layer.
        activation: ``"leaky_relu"`` or ``"tanh"``.
    """

    def __init__(
        self,
        num_heads: int | None = None,
        dim: int | None = None,
        *,
        activation: Literal["leaky_relu", "tanh"] = "leaky_relu",
    ) -> None:
        super().__init__()
        require_known("activation", activation, ("leaky_relu", "tanh"))
        self.activation = activation
        self.cost = 1
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.cost = num_heads * dim
        self.vector = nn.Parameter(torch.empty(num_heads, dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        bound = 1 / math.sqrt(self.vector.shape[1])
        nn.init.uniform_(self.vector, -bound, bound)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        both = pairs.at_receivers(q) + pairs.at_senders(k)
        hidden = both.tanh() if self.activation == "tanh" else F.leaky_relu(both, 0.2)
        return (hidden * pairs.of_head(self.vector).to(hidden.dtype)).sum(-1)
