r"""The linear executor: sums whose weights are plain dot products, or dot products that fade with
the distance, by blocks of tokens and a running state. No edges are built. A softmax of logits that
depend on the sender alone runs here too, by :mod:`graphformer.attention.executors.scan`.

With :math:`w_{ij} = \lambda^{i - j} \langle q_i, k_j \rangle`, blocks of C tokens and the state
:math:`S_b = \sum_{j < bC} \lambda^{bC - j} k_j x_j^\top` (lightning attention, arXiv 2401.04658;
the chunkwise form of retention, arXiv 2307.08621, eq. 7),

.. math::
    \mathrm{out}_i = \sum_{bC \le j \le i} w_{ij} x_j + \lambda^{i - bC} S_b^\top q_i .

Time is ``O(n (C + D) d)`` and memory ``O(n d + n d D / C)`` for features of width D. No power of
:math:`\lambda` has a negative exponent, so nothing overflows. All of it is torch's own operations,
so it has derivatives of every order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.candidates import Keep, Rule
from graphformer.attention.candidates.base import Both
from graphformer.attention.executors import scan
from graphformer.attention.executors.running import RunningSums
from graphformer.attention.problem import Problem
from graphformer.uncompiled import exporting

CHUNK = 128
"""Tokens of a block: within one, all pairs are weighed."""


def obstacle(
    problem: Problem,
    reductions: tuple[str, ...],
    dropout: float,
    past: RunningSums | None = None,
) -> str | None:
    """Why this problem needs edges, or ``None`` if it does not."""
    if problem.edges is not None:
        return "the candidates are explicit edges"
    if problem.sparsify is not None:
        return f"sparsify={problem.sparsify} cuts edges"
    allowed = ["sum"]
    if problem.normalize.is_softmax:
        if problem.score.of_senders(problem.q, problem.k) is None:
            return f"{_no_identity(problem)}, and score={_score_name(problem)} reads receivers"
        allowed = ["sum", "mean"]  # its weights sum to 1
    elif not problem.normalize.is_identity:
        return _no_identity(problem)
    elif problem.score.fading(problem.q, problem.k) is None:
        return f"score={_score_name(problem)} is no dot product, nor one that fades"
    num_receivers, num_senders = problem.sizes[2:]
    if num_receivers == 0:
        return "there are no tokens"
    rule = _without_padding(problem.rule)[0]
    if not (rule.causal and num_receivers == num_senders):
        return "the candidates are not all tokens up to the receiver"
    held = past is not None and past.held  # then there is no other way
    if not held and (torch.compiler.is_compiling() or exporting()):
        return "the number of blocks would be a constant of the program"
    if dropout:
        return "dropout draws a number for each weight"
    others = [one for one in reductions if one not in allowed]
    return f"the operator needs the reductions {', '.join(others)}" if others else None


def _score_name(problem: Problem) -> str:
    return type(problem.score).__name__


def _no_identity(problem: Problem) -> str:
    """Asked in each layer of each token that is generated, so a name and no arguments."""
    kind = type(problem.normalize)
    return f"normalize={kind.name or kind.__name__} is not identity"


def weighted_sum(problem: Problem, x: Tensor, past: RunningSums | None = None) -> Tensor:
    """``sum_j w_ij x_j`` for ``x`` ``[B, H, N, D]``.

    Args:
        past: sums over the senders before these, to which these are added.
    """
    keep = _without_padding(problem.rule)[1]
    before = None if past is None else past.parts
    run = _scanned if problem.normalize.is_softmax else _faded
    with torch.autocast(x.device.type, enabled=False):
        out, after = run(problem, x, keep, before)
    if past is not None:
        past.add(after, (x.shape[0], x.shape[2]), keep)
    return out.to(x.dtype)


Parts = tuple[Tensor, ...]


def _faded(problem: Problem, x: Tensor, keep: Tensor | None, before: Any) -> tuple[Tensor, Parts]:
    found = problem.score.fading(problem.q, problem.k)
    assert found is not None
    q, k, log_rate = found
    values = x.to(q.dtype)
    if keep is not None:  # padding sends nothing
        values = values * keep[:, None, :, None]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    out, state = in_blocks(q, k, values, log_rate, None if before is None else before[0])
    return out, (state,)


def _scanned(problem: Problem, x: Tensor, keep: Tensor | None, before: Any) -> tuple[Tensor, Parts]:
    logits = problem.score.of_senders(problem.q, problem.k)
    assert logits is not None
    if keep is not None:
        logits = logits.masked_fill(~keep[:, None], -torch.inf)
    return scan.running_softmax(logits, x.to(logits.dtype), before)


def in_blocks(
    q: Tensor, k: Tensor, x: Tensor, log_rate: Tensor | None, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The formula on ``[B, H, N, d]``, ``[B, H, N, d]`` and ``[B, H, N, D]``.

    Args:
        log_rate: ``log lambda`` of each head ``[H]``, at most 0; None: nothing fades.
        before: the state ``[B, H, d, D]`` that the senders before these leave; None: there are
            none.

    Returns:
        ``[B, H, N, D]``, and the state behind the last of these senders.
    """
    length = q.shape[2]
    size = min(CHUNK, length)
    q, k, x = (
        F.pad(one, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for one in (q, k, x)
    )  # [B, H, blocks, C, *]
    place = torch.arange(size, device=q.device)
    behind = (place[:, None] - place).clamp(min=0).to(q.dtype)  # of pairs within a block
    rate = q.new_zeros(1) if log_rate is None else log_rate.to(q.dtype)
    rate = rate.view(-1, 1, 1)
    within = (rate * behind).exp().tril().unsqueeze(1)  # [H, 1, C, C]
    out = (q @ k.mT * within) @ x
    to_end = (rate * (size - place).to(q.dtype).unsqueeze(-1)).exp().unsqueeze(1)
    added = (k * to_end).mT @ x  # [B, H, blocks, d, D]: what each block adds to the state
    fall = (rate * size).exp()
    state = torch.zeros_like(added[:, :, 0]) if before is None else before
    states = []
    for block in added.unbind(2):
        states.append(state)
        state = fall * state + block
    since = (rate * place.to(q.dtype).unsqueeze(-1)).exp().unsqueeze(1)
    out = out + (q * since) @ torch.stack(states, 2)
    # The last block may be shorter than the others: what it leaves fades by its own length.
    rest = length - (out.shape[2] - 1) * size
    to_end = (rate * (rest - place).clamp(min=0).to(q.dtype).unsqueeze(-1)).exp()
    left = (rate * rest).exp() * states[-1] + (k[:, :, -1] * to_end).mT @ x[:, :, -1]
    return out.flatten(2, 3)[:, :, :length], left


def _without_padding(rule: Rule) -> tuple[Rule, Tensor | None]:
    """A rule and the mask of real tokens ``[B, N]`` that stands beside it."""
    if isinstance(rule, Both) and isinstance(rule.second, Keep) and rule.second.keep.ndim == 2:
        return rule.first, rule.second.keep
    return rule, None
