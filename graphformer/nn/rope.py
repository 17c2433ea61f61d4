"""Rotary position embeddings (arXiv 2104.09864), in the layout that Llama uses (two halves)."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.errors import number, whole


def rotary_embeddings(
    positions: Tensor, head_dim: int, *, theta: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """``cos`` and ``sin`` ``[..., N, head_dim]`` of integer positions ``[..., N]``, in float32.

    Raises:
        ValueError: ``theta`` is not positive, or ``head_dim`` is odd: the rotation turns pairs of
            channels.
    """
    number("theta", theta, above=0.0)
    if whole("head_dim", head_dim) % 2:
        raise ValueError(
            f"rotary embeddings turn pairs of channels, so head_dim must be even, got {head_dim}"
        )
    frequency = theta ** (
        -torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    )
    angle = positions.unsqueeze(-1).float() * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` ``[B, H, N, head_dim]`` by ``cos`` and ``sin`` ``[B or 1, N, head_dim]``."""
    if x.shape[-1] % 2 or cos.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"position_embeddings must have the head dimension {x.shape[-1]}, which must be even, "
            f"got cos of shape {tuple(cos.shape)}"
        )
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
