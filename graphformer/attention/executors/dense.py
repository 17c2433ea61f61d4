"""The dense executor: the whole score matrix through the slots. The readable oracle that every
other executor must equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer import finite
from graphformer.attention.problem import UNKNOWN_NUMBER, Problem
from graphformer.graph import AttentionGraph


def build(problem: Problem) -> AttentionGraph:
    """All rows at once."""
    batch, heads, num_receivers, num_senders = problem.sizes
    pairs = problem.pairs()
    weights = problem.weights(pairs)  # [B, H, Nq, Nk]
    keep = pairs.allowed.expand(weights.shape)
    if problem.sparsify is not None:
        keep = keep & problem.keep(weights.detach(), pairs)
    if finite.batched(keep):
        raise ValueError(UNKNOWN_NUMBER)
    lane, row, sender = keep.flatten(0, 1).nonzero(as_tuple=True)
    senders, receivers = lane * num_senders + sender, lane * num_receivers + row
    sizes = num_senders, num_receivers
    return AttentionGraph.of_sorted((senders, receivers), weights[keep], sizes, (batch, heads))


def reduce(weights: Tensor, keep: Tensor, x: Tensor, reduction: str) -> Tensor:
    """The naive twin of :func:`graphformer.aggregate` on matrices: ``[..., Nq, Nk]`` and
    ``[..., Nk, D]`` to ``[..., Nq, D]``.
    """
    weights = weights.masked_fill(~keep, 0.0)
    sizes = torch.where(weights < 0, -weights, weights)
    total = sizes.sum(-1, keepdim=True)
    total = torch.where(total == 0, torch.ones_like(total), total)
    if reduction == "sum":
        return weights @ x
    if reduction in ("mean", "var", "std"):
        mean = weights @ x / total
        if reduction == "mean":
            return mean
        signs = torch.where(weights < 0, -1.0, 1.0).to(x.dtype).unsqueeze(-1)
        deviation = (signs * x.unsqueeze(-3) - mean.unsqueeze(-2)) ** 2  # [..., Nq, Nk, D]
        var = (sizes.unsqueeze(-1) * deviation).sum(-2) / total
        return var if reduction == "var" else var.sqrt()
    if reduction in ("max_norm", "min_norm"):
        norm = x.norm(dim=-1).unsqueeze(-2).expand(weights.shape) * (
            1.0 if reduction == "max_norm" else -1.0
        )
        norm = norm.masked_fill(~keep, -torch.inf)
        attained = ((norm == norm.amax(-1, keepdim=True)) & keep).to(x.dtype)
        return attained / attained.sum(-1, keepdim=True).clamp(min=1) @ x
    sign = 1.0 if reduction == "max" else -1.0
    spread = (sign * x.unsqueeze(-3)).masked_fill(~keep.unsqueeze(-1), -torch.inf).amax(-2)
    return sign * spread.masked_fill(~keep.any(-1, keepdim=True), 0.0)
