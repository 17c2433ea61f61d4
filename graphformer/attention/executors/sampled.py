"""Dot products on the edges of a graph only, without ``[E, d]`` tensors; differentiable any number
of times.
"""

from __future__ import annotations

from torch import Tensor

from graphformer.backends.sums import EdgeDots, Ends
from graphformer.graph import AttentionGraph


def sampled_scores(q: Tensor, k: Tensor, graph: AttentionGraph) -> Tensor:
    """``s_e = <q_i, k_j>`` on the edges of a graph, ``[E]``, for ``q`` ``[B, H, Nq, d]`` and ``k``
    ``[B, Hkv, Nk, d]``.

    A key head serves a group of lanes.
    """
    if q.shape[1] == 0:  # no head, so no group of them
        return 0.0 * (q.sum() + k.sum()) * q.new_zeros(0)
    return EdgeDots.apply(
        q.flatten(0, 2), k.flatten(0, 2), Ends.of(graph, q.shape[1] // k.shape[1])
    )


def sum_groups(dk: Tensor, k: Tensor) -> Tensor:
    """Gradients of every lane's keys ``[B, H, Nk, d]``, summed over the heads that share them: k's
    shape.
    """
    heads, kv_heads = dk.shape[1], k.shape[1]
    return dk if heads == kv_heads else dk.unflatten(1, (kv_heads, heads // kv_heads)).sum(2)
