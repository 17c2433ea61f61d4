"""Clusters that sharpen themselves: soft assignments, and what they should be."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.errors import number


def soft_assignments(x: Tensor, centres: Tensor, freedom: float = 1.0) -> Tensor:
    r"""Student's t of each node and each centre, over the centres:

    .. math:: q_{ik} \propto (1 + |x_i - \mu_k|^2 / \nu)^{-(\nu + 1) / 2}

    Args:
        x: ``[N, D]``. centres: ``[K, D]``.
        freedom: nu.

    Returns:
        ``[N, K]``, rows of sum 1.

    Source: DEC, arXiv 1511.06335, equation 1.
    """
    number("freedom", freedom, above=0.0)
    if x.ndim != 2 or centres.ndim != 2 or x.shape[1] != centres.shape[1]:
        raise ValueError(
            f"x must be [N, D] and centres [K, D], got {list(x.shape)} and {list(centres.shape)}"
        )
    square = (x[:, None] - centres).square().sum(-1)
    return (-(freedom + 1) / 2 * (square / freedom).log1p()).softmax(-1)


def sharpened(q: Tensor) -> Tensor:
    r"""The target of assignments, without a gradient: surer ones count more, and large clusters
    less:

    .. math:: p_{ik} \propto q_{ik}^2 / \sum_i q_{ik}

    Args:
        q: ``[N, K]``, rows of sum 1.

    Source: DEC, arXiv 1511.06335, equation 3.
    """
    square = q.detach().square()
    p = square / q.detach().sum(0).clamp(min=torch.finfo(q.dtype).tiny)
    return p / p.sum(1, keepdim=True)


def cluster_refinement(q: Tensor, target: Tensor | None = None) -> Tensor:
    r"""``KL(p || q)``, the mean over nodes:

    .. math:: L = \frac1N \sum_{ik} p_{ik} \log \frac{p_{ik}}{q_{ik}}

    Args:
        q: assignments ``[N, K]``, of :func:`soft_assignments`.
        target: p; unless given, :func:`sharpened` of q. Training is steadier where it is made anew
            every some steps only.

    Raises:
        ValueError: a target of another shape.

    Source: DEC, arXiv 1511.06335; on graphs SCGC, arXiv 2204.12656.
    """
    p = sharpened(q) if target is None else target
    if p.shape != q.shape or q.ndim != 2:
        raise ValueError(f"q and target must be [N, K], got {list(q.shape)} and {list(p.shape)}")
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1).mean()
