"""The flash executor: ``A x`` is ``scaled_dot_product_attention`` with the node features as values.
No edges are built.

Exact for whatever is linear in the messages. The sharpening goes into the queries, so its gradient
is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from graphformer import finite
from graphformer.attention.candidates import Rule
from graphformer.attention.executors import blocks, labelled, twice
from graphformer.attention.pairs import Pairs
from graphformer.attention.problem import Problem


def obstacle(problem: Problem, reductions: tuple[str, ...]) -> str | None:
    """Why this problem needs edges, or ``None`` if it does not."""
    if problem.edges is not None:
        return "the candidates are explicit edges"
    if problem.rule.chooses and not torch.compiler.is_compiling():
        batch, heads, num_receivers, num_senders = problem.sizes
        if batch * heads * num_receivers * num_senders > blocks.BLOCK_ELEMENTS:
            return "the candidates are chosen row by row, and its mask would be of all pairs"
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
    heads = problem.sizes[1]
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return kernel(problem, q, k, x, dropout, scale)
    if finite.transformed():  # what torch.func asks for, a kernel has only in part
        if dropout:
            raise ValueError(
                "executor='flash' has no dropout inside torch.func's transforms: call .eval(), or "
                "choose executor='dense'"
            )
        return twice.Passage(problem, scale).weights(q, k) @ x
    passage = twice.Passage(problem, scale, dropout > 0)
    q, k, x = twice.Entry.apply(passage, q, k, x)
    return twice.Exit.apply(passage, kernel(problem, q, k, x, dropout, scale))


def kernel(
    problem: Problem, q: Tensor, k: Tensor, x: Tensor, dropout: float, scale: float
) -> Tensor:
    """``scaled_dot_product_attention``: at once, or stretch by stretch where rows reach few of the
    senders.
    """
    apart = head_groups(problem)
    if apart is not None:  # heads of one kind by the kernel of that kind
        outs = []
        for rule, kind in apart:
            part = replace(problem, q=problem.q[:, kind], rule=rule)
            outs.append(kernel(part, q[:, kind], k[:, kind], x[:, kind], dropout, scale))
        order = [head for _, kind in apart for head in kind]
        joined = torch.cat(outs, 1)
        if order == sorted(order):
            return joined
        return joined[:, [order.index(head) for head in range(len(order))]]
    num_receivers, num_senders = problem.sizes[2:]
    attention = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scale)
    # torch aligns its causal mask at the first key. A single query sees every key; other
    # rectangles need the mask itself.
    if problem.rule.everything or (problem.rule.causal and num_receivers == 1):
        return attention(q, k, x)
    if problem.rule.causal and num_receivers == num_senders:
        return attention(q, k, x, is_causal=True)
    beside = problem.rule.beside()
    if beside is not None:
        rule, tokens = beside
        if rule.everything or (rule.causal and num_receivers == 1):
            return attention(q, k, x)
        if rule.causal and num_receivers == tokens:
            return behind_the_others(q, k, x, tokens, attention)
    groups = labelled.groups(problem)
    if groups is not None:
        return labelled.by_group(problem, groups, (q, k, x), attention)
    stretches = narrow(problem)
    if stretches is None:
        # a rule that asks for senders alone has no axis of receivers, and the kernel wants one
        return attention(q, k, x, attn_mask=torch.atleast_2d(problem.allowed()))
    every, out = Pairs.every(*problem.sizes, q.device), []
    reached = [columns for _, columns in stretches]
    queries = q.split(ROWS, 2)
    keys, values = Parts.apply(reached, k), Parts.apply(reached, x)
    parts = zip(queries, keys, values, strict=True)
    for (rows, columns), (own_q, own_k, own_x) in zip(stretches, parts, strict=True):
        places = torch.cat([every.sender[one.start : one.stop] for one in columns])
        own = every.receiver[rows.start : rows.stop]
        pairs = replace(every, receiver=own, sender=places)
        mask = problem.rule.allow(pairs).expand(*pairs.shape)
        out.append(attention(own_q, own_k, own_x, attn_mask=mask))
    return torch.cat(out, 2)


def behind_the_others(
    q: Tensor, k: Tensor, x: Tensor, tokens: int, attention: Callable[..., Tensor]
) -> Tensor:
    """Causal attention among the first ``tokens`` senders, where everybody sees those behind them.

    With these before the tokens, and as many rows before the tokens' own, it is one square whose
    triangle is the kernel's: no mask is made.
    """
    more = k.shape[2] - tokens
    k, x = (torch.cat((one[:, :, tokens:], one[:, :, :tokens]), 2) for one in (k, x))
    rows = q.new_zeros(*q.shape[:2], more, q.shape[3])
    return attention(torch.cat((rows, q), 2), k, x, is_causal=True)[:, :, more:]


class Parts(Function):
    """The nodes in each of several lists of ranges, of ``[B, H, N, d]``. Their gradients are added
    up in one tensor: a slice of torch makes one of N nodes for every part.
    """

    @staticmethod
    def forward(ctx: Any, reached: list[list[range]], t: Tensor) -> tuple[Tensor, ...]:
        ctx.reached, ctx.shape = reached, t.shape
        parts = ([t[:, :, one.start : one.stop] for one in columns] for columns in reached)
        return tuple(part[0] if len(part) == 1 else torch.cat(part, 2) for part in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        total = grads[0].new_zeros(ctx.shape)
        for columns, grad in zip(ctx.reached, grads, strict=True):
            parts = grad.split([len(one) for one in columns], 2)
            for one, part in zip(columns, parts, strict=True):
                total[:, :, one.start : one.stop] += part
        return None, total


def head_groups(problem: Problem) -> list[tuple[Rule, list[int]]] | None:
    """Heads with the same rule, where they have different ones and each its own."""
    rules = problem.rule.by_head()
    if rules is None or all(one is rules[0] or one == rules[0] for one in rules):
        return None
    found: list[tuple[Rule, list[int]]] = []
    for head, rule in enumerate(rules):
        own = next((heads for one, heads in found if one is rule or one == rule), None)
        if own is None:
            found.append((rule, [head]))
        else:
            own.append(head)
    return found


ROWS = 256
"""Receivers of a stretch: their window is then no more than so much wider than that of one."""


def narrow(problem: Problem) -> list[tuple[range, list[range]]] | None:
    """Rows and the columns they reach, where these are less than half of all pairs; None where one
    call is better, and where a tracer would take the number of stretches for a constant.
    """
    num_receivers, num_senders = problem.sizes[2:]
    if torch.compiler.is_compiling() or num_receivers <= ROWS:
        return None
    rows = [
        range(start, min(start + ROWS, num_receivers)) for start in range(0, num_receivers, ROWS)
    ]
    found = [(one, problem.rule.reaches(one, num_receivers, num_senders)) for one in rows]
    scored = sum(len(own) * sum(map(len, columns)) for own, columns in found)
    if 2 * scored >= num_receivers * num_senders or any(not columns for _, columns in found):
        return None
    return found
