"""Parameters of the scores that need more than one pair of projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphformer.attention.scores import Pairwise
from graphformer.errors import whole


class DifferentialScoring(nn.Module):
    r"""The second queries and keys of differential attention, and the trainable factor
    :math:`\lambda` of the second map.

    :math:`\lambda` starts at ``0.8 - 0.6 exp(-0.3 l)`` in layer ``l = 0, 1, ...`` (arXiv
    2410.05258, eq. 3).
    """

    def __init__(self, hidden_size: int, kv_size: int, layer_idx: int | None) -> None:
        super().__init__()
        whole("hidden_size", hidden_size)
        whole("kv_size", kv_size)
        whole("layer_idx", 0 if layer_idx is None else layer_idx, 0)
        self.initial_amount = 0.8 - 0.6 * math.exp(-0.3 * (layer_idx or 0))
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, kv_size, bias=False)
        self.amount = nn.Parameter(torch.full((1,), self.initial_amount))

    def reset_parameters(self) -> None:
        self.q_proj.reset_parameters()
        self.k_proj.reset_parameters()
        nn.init.constant_(self.amount, self.initial_amount)


class PairwiseScoring(nn.Module):
    r"""``s_hij = MLP([x_i || x_j])_h``: a network with one hidden layer (SiLU) scores each pair,
    for all heads at once.

    Its first layer is kept as two maps, ``receiver`` and ``sender`` (see
    :class:`graphformer.attention.Pairwise`). It knows no positions: a causal order comes from the
    mask alone.
    """

    def __init__(self, hidden_size: int, num_heads: int, width: int) -> None:
        super().__init__()
        for name, value in (
            ("hidden_size", hidden_size),
            ("num_heads", num_heads),
            ("score_width", width),
        ):
            whole(name, value)
        self.receiver = nn.Linear(hidden_size, width)
        self.sender = nn.Linear(hidden_size, width, bias=False)
        self.out = nn.Linear(width, num_heads)

    def reset_parameters(self) -> None:
        for module in (self.receiver, self.sender, self.out):
            module.reset_parameters()

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, hidden_size]`` to what stands for queries and keys, ``[B, 1, N, width]``
        each.
        """
        return self.receiver(hidden_states).unsqueeze(1), self.sender(hidden_states).unsqueeze(1)

    def score(self) -> Pairwise:
        return Pairwise(self.out.weight, self.out.bias)
