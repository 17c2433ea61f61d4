"""Slot 2, score: a logit for each candidate pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScaledDotProduct:
    """``s_ij = sharpening * scale * <q_i, k_j>`` (arXiv 2501.02393, section 2.1: a trainable sharpening before the softmax).

    Both factors go into the queries, before any masking, so that a masked pair stays masked whatever the sharpening. Half
    precision is scored in float32.

    Attributes:
        scale: ``1 / sqrt(d)`` unless given.
        sharpening: a number, or a tensor that broadcasts to ``[B, H, Nq, 1]`` (a trainable scalar, one value a head as ``[H, 1, 1]``).
    """

    scale: float | None = None
    sharpening: Tensor | float = 1.0

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the factors into q: afterwards a score is a plain dot product."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        scale = 1.0 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        sharpening = self.sharpening.to(dtype) if isinstance(self.sharpening, Tensor) else self.sharpening
        return q.to(dtype) * (scale * sharpening), k.to(dtype)

    def rows(self, q: Tensor, k: Tensor) -> Tensor:
        """Prepared ``[B, H, R, d]`` and ``[B, Hkv, N, d]`` to ``[B, H, R, N]``; each key head serves a group of query heads."""
        batch, heads, rows, dim = q.shape
        kv_heads, num_senders = k.shape[1], k.shape[2]
        grouped = q.reshape(batch, kv_heads, heads // kv_heads * rows, dim)
        return (grouped @ k.transpose(-1, -2)).view(batch, heads, rows, num_senders)

    def edges(self, q: Tensor, k: Tensor) -> Tensor:
        """Prepared ``[E, d]`` and ``[E, d]``, gathered at each edge's ends, to ``[E]``."""
        return (q * k).sum(-1)
