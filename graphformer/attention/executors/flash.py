"""The flash executor: ``A x`` is ``scaled_dot_product_attention`` with the node features as values.
No edges are built.

Exact for whatever is linear in the messages. The sharpening goes into the queries, so its gradient
is kept.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer import finite
from graphformer.attention.executors import twice
from graphformer.attention.problem import Problem


def obstacle(problem: Problem, reductions: tuple[str, ...]) -> str | None:
    """Why this problem needs edges, or ``None`` if it does not."""
    if problem.edges is not None:
        return "the candidates are explicit edges"
    if problem.sparsify is not None:
        return f"sparsify={problem.sparsify} cuts edges"
    if not problem.normalize.is_softmax:
        return f"normalize={problem.normalize} is not softmax"
    maps = problem.score.dots(problem.q, problem.k)
    if maps is None:
        return f"score={type(problem.score).__name__} is not a dot product"
    # the weights of a difference do not sum to 1
    linear = ("sum", "mean") if len(maps) == 1 else ("sum",)
    others = [name for name in reductions if name not in linear]
    return f"the operator needs the reductions {', '.join(others)}" if others else None


def weighted_sum(problem: Problem, q: Tensor, k: Tensor, x: Tensor, dropout: float) -> Tensor:
    """``sum_j w_ij x_j`` for ``x`` ``[B, H, Nk, D]``; softmax weights sum to 1, so it is the mean
    as well.

    ``q`` and ``k`` are those of before :meth:`Score.prepare`: half precision goes into the kernel
    as it is.
    """
    half = precision(x)
    if half in (torch.float16, torch.bfloat16):
        given = problem.score.in_half(q, k, half)
        if given is not None:
            q, k, scale = given
            return sdpa(problem, q.to(x.dtype), k.to(x.dtype), x, dropout, scale)
    maps = problem.score.dots(problem.q, problem.k)  # all factors are in the problem's q
    assert maps is not None
    # what may not fit float16 is computed in float32, which the problem's q and k are
    wide = half == torch.float16
    values = x.float() if wide else x
    total: Tensor | None = None
    for factor, own_q, own_k in maps:
        with torch.autocast(x.device.type, enabled=False) if wide else nullcontext():
            out = sdpa(
                problem, own_q.to(values.dtype), own_k.to(values.dtype), values, dropout, 1.0
            )
        if isinstance(factor, Tensor) or factor != 1.0:
            out = (factor * out).to(out.dtype)
        total = out if total is None else total + out
    assert total is not None
    return total.to(x.dtype) if wide else total


def precision(x: Tensor) -> torch.dtype:
    """What ``scaled_dot_product_attention`` computes in: autocast's precision where it is on, else
    x's own.
    """
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def sdpa(problem: Problem, q: Tensor, k: Tensor, x: Tensor, dropout: float, scale: float) -> Tensor:
    """torch's attention with the problem's rule as its mask."""
    _, heads, num_receivers, num_senders = problem.sizes
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    mask, causal = None, False
    if problem.rule.causal:
        # torch aligns its causal mask at the first key. A single query sees every key; other
        # rectangles need the mask itself.
        # not causal = (...): under torch.compile that would be a symbol, which torch refuses
        if num_receivers == num_senders:
            causal = True
        elif num_receivers != 1:
            mask = problem.allowed()
    elif not problem.rule.everything:
        mask = problem.allowed()
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(
            q, k, x, attn_mask=mask, is_causal=causal, dropout_p=dropout, scale=scale
        )
    if finite.transformed():  # what torch.func asks for, a kernel has only in part
        if dropout:
            raise ValueError(
                "executor='flash' has no dropout inside torch.func's transforms: call .eval(), or "
                "choose executor='dense'"
            )
        return twice.Passage(problem, scale).weights(q, k) @ x
    passage = twice.Passage(problem, scale, dropout > 0)
    q, k, x = twice.Entry.apply(passage, q, k, x)
    out = F.scaled_dot_product_attention(
        q, k, x, attn_mask=mask, is_causal=causal, dropout_p=dropout, scale=scale
    )
    return twice.Exit.apply(passage, out)
