"""Differential attention: the difference of two maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import (
    Score,
    as_tensor,
    at_pairs,
    check_factors,
    factors,
    per_head,
    times,
)
from graphformer.errors import number, whole


@dataclass(frozen=True, eq=False)
class Differential(Score):
    r"""Two dot products with their own queries and keys (arXiv 2410.05258),
    :math:`w_{ij} = \mathrm{normalize}(s^1)_{ij} - \lambda\, \mathrm{normalize}(s^2)_{ij}`.

    The first half of the channels of q and k makes :math:`s^1`, the second half :math:`s^2`.
    Weights may be negative.

    Attributes:
        amount: lambda, a number, one a head, or a tensor that broadcasts to ``[B, H, 1, 1]``.
        scale: ``1 / sqrt(d / 2)`` unless given.
        sharpening: as in :class:`ScaledDotProduct`, of both.
    """

    amount: Tensor | float = 0.5
    scale: float | None = None
    sharpening: Tensor | float = 1.0
    scaled = True

    def __post_init__(self) -> None:
        for name in ("amount", "sharpening"):
            object.__setattr__(self, name, as_tensor(getattr(self, name)))
        check_factors(self.scale, self.sharpening)
        if not isinstance(self.amount, Tensor):
            number("amount", self.amount)

    def sharpened(self, sharpening: Tensor | float) -> Score:
        return times(self, sharpening)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        per_head("amount", self.amount, q.shape)
        if q.shape[-1] % 2:
            raise ValueError(
                "differential attention halves the channels of q and k, so there must be an even "
                f"number, got {q.shape[-1]}"
            )
        dtype = torch.promote_types(q.dtype, torch.float32)
        sharpening = per_head("sharpening", self.sharpening, q.shape, rows=True)
        return q.to(dtype) * factors(self.scale, sharpening, q.shape[-1] // 2, dtype), k.to(dtype)

    def prepared(self) -> Score:
        return replace(self, scale=None, sharpening=1.0)

    def maps(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> tuple[Tensor, ...]:
        return tuple(pairs.dot(*half) for half in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True))

    def combine(self, weights: Sequence[Tensor], pairs: Block | Listed) -> Tensor:
        shape = (
            (0, len(self.amount))
            if isinstance(self.amount, Tensor) and self.amount.ndim == 1
            else (0, 0)
        )
        amount = per_head("amount", self.amount, (*shape, 1, 1)) if shape[1] else self.amount
        return weights[0] - at_pairs(amount, pairs) * weights[1]

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]]:
        (q1, q2), (k1, k2) = q.chunk(2, -1), k.chunk(2, -1)
        return [(1.0, q1, k1), (-per_head("amount", self.amount, q.shape), q2, k2)]


class DifferentialScoring(nn.Module, Score, name="differential"):
    r"""Differential attention in a layer: second queries and keys, and a trained factor
    :math:`\lambda` of the second map.

    :math:`\lambda` starts at ``0.8 - 0.6 exp(-0.3 l)`` in layer ``l = 0, 1, ...`` (arXiv
    2410.05258, eq. 3).

    Args:
        hidden_size: width of the receivers' input. sender_size: of the senders' (unless given, the
            same).
        kv_size: width of the keys, all key heads together. query_size: of the queries (unless
            given, ``hidden_size``).
        layer_idx: l.
    """

    scaled = True
    attribute = "differential"

    def __init__(
        self,
        hidden_size: int | None = None,
        kv_size: int | None = None,
        layer_idx: int | None = None,
        *,
        query_size: int | None = None,
        sender_size: int | None = None,
    ) -> None:
        super().__init__()
        if hidden_size is None or kv_size is None:
            return  # for_layer makes it anew, with the layer's sizes
        whole("hidden_size", hidden_size)
        whole("kv_size", kv_size)
        for name, value in (("query_size", query_size), ("sender_size", sender_size)):
            whole(name, 1 if value is None else value)
        whole("layer_idx", 0 if layer_idx is None else layer_idx, 0)
        self.initial_amount = 0.8 - 0.6 * math.exp(-0.3 * (layer_idx or 0))
        self.q_proj = nn.Linear(hidden_size, query_size or hidden_size, bias=False)
        self.k_proj = nn.Linear(sender_size or hidden_size, kv_size, bias=False)
        self.amount = nn.Parameter(torch.full((1,), self.initial_amount))

    def reset_parameters(self) -> None:
        self.q_proj.reset_parameters()
        self.k_proj.reset_parameters()
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.amount, self.initial_amount)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        second = split(self.q_proj(receivers)), split(self.k_proj(senders))
        return torch.cat((q, second[0]), -1), torch.cat((k, second[1]), -1)

    def of_call(self, sharpening: Tensor | None = None, previous: Any = None) -> Score:
        return Differential(self.amount, None, 1.0 if sharpening is None else sharpening)
