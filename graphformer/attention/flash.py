"""The flash executor: ``A x`` is ``scaled_dot_product_attention`` with the node features as values. No edges are built.

Exact for whatever is linear in the messages. The sharpening goes into the queries, so its gradient is kept.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.candidates import All, Causal
from graphformer.attention.normalizers import Softmax
from graphformer.attention.problem import Problem


def obstacle(problem: Problem, reductions: tuple[str, ...]) -> str | None:
    """Why this problem needs edges, or ``None`` if it does not."""
    if problem.edges is not None:
        return "the candidates are explicit edges"
    if problem.sparsify is not None:
        return f"sparsify={problem.sparsify} cuts edges"
    if not isinstance(problem.normalize, Softmax):
        return f"normalize={problem.normalize} is not softmax"
    others = [name for name in reductions if name not in ("sum", "mean")]
    return f"the operator needs the reductions {', '.join(others)}" if others else None


def weighted_sum(problem: Problem, q: Tensor, k: Tensor, x: Tensor, dropout: float) -> Tensor:
    """``sum_j w_ij x_j`` for ``x`` ``[B, H, Nk, D]``; softmax weights sum to 1, so it is the mean as well."""
    _, heads, num_receivers, num_senders = problem.sizes
    score = problem.score
    if isinstance(score.sharpening, Tensor) or score.sharpening != 1.0:
        q = q * score.sharpening
    q, k = q.to(x.dtype), k.to(x.dtype)
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    scale = 1.0 / math.sqrt(q.shape[-1]) if score.scale is None else score.scale
    mask, causal = None, False
    if isinstance(problem.rule, Causal):
        # torch aligns its causal mask at the first key. A single query sees every key; other rectangles need the mask itself.
        causal = num_receivers == num_senders
        if not causal and num_receivers != 1:
            mask = problem.allowed(range(num_receivers))
    elif not isinstance(problem.rule, All):
        mask = problem.allowed(range(num_receivers))
    return F.scaled_dot_product_attention(q, k, x, attn_mask=mask, is_causal=causal, dropout_p=dropout, scale=scale)
