"""Attention among nodes of equal labels: sorted by label, each group by a kernel call of its own.

A rule that allows pairs of equal labels alone (clusters) leaves about a k-th of all pairs with k
labels of equal size: with k about sqrt(n), n sqrt(n). A mask of all pairs would cost n^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.pairs import Pairs
from graphformer.attention.problem import Problem

FEWEST = 256
"""Receivers from which on sorting pays."""


def groups(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Numbers of groups of receivers ``[B * H * Nq]`` and of senders ``[B * H * Nk]``, where these
    leave less than half of the pairs; None elsewhere.
    """
    labels = problem.rule.labels()
    if labels is None or torch.compiler.is_compiling() or problem.sizes[2] < FEWEST:
        return None
    if 0 in problem.sizes:
        return None
    of_receivers, of_senders = labels
    if of_receivers.shape[:2] != problem.sizes[:2]:
        return None
    number = int(torch.stack([one.amax() for one in labels]).amax()) + 1
    lane = torch.arange(of_receivers[..., 0].numel(), device=of_receivers.device)
    first = (lane * number).view(*of_receivers.shape[:2], 1)
    found = (first + of_receivers).flatten(), (first + of_senders).flatten()
    receivers, senders = (torch.bincount(one, minlength=len(lane) * number) for one in found)
    pairs, all_pairs = (
        int((receivers * senders).sum()),
        len(lane) * problem.sizes[2] * problem.sizes[3],
    )
    return found if 2 * pairs < all_pairs else None


def by_group(
    problem: Problem,
    found: tuple[Tensor, Tensor],
    tensors: tuple[Tensor, Tensor, Tensor],
    attention: Callable[..., Any],
) -> Tensor:
    """``attention(q, k, x, attn_mask=...)`` group by group, from q ``[B, H, Nq, d]``, k and x
    ``[B, H, Nk, *]`` to ``[B, H, Nq, D]``.
    """
    q, k, x = tensors
    _, heads, num_receivers, num_senders = problem.sizes
    size = int(torch.stack([one.amax() for one in found]).amax()) + 1
    orders = [torch.argsort(one, stable=True) for one in found]
    counts = [torch.bincount(one, minlength=size).tolist() for one in found]
    # Sorted once and split: a slice for each group would have a gradient of all nodes for each.
    queries = q.flatten(0, 2)[orders[0]].split(counts[0])
    keys, values = (one.flatten(0, 2)[orders[1]].split(counts[1]) for one in (k, x))
    rows, columns = (one.split(count) for one, count in zip(orders, counts, strict=True))
    out = []
    for own, other, places, senders, value in zip(
        queries, keys, rows, columns, values, strict=True
    ):
        if not len(own):
            continue
        if not len(other):
            out.append(value.new_zeros(len(own), x.shape[-1]))
            continue
        lane = torch.div(places[:1], num_receivers, rounding_mode="floor")
        pairs = Pairs(
            torch.div(lane, heads, rounding_mode="floor"),
            lane % heads,
            (places % num_receivers).unsqueeze(-1),
            senders % num_senders,
            num_receivers,
            num_senders,
        )
        mask = problem.rule.allow(pairs).expand(len(own), len(other))
        given = (one[None, None] for one in (own, other, value))
        out.append(attention(*given, attn_mask=mask[None, None])[0, 0])
    joined = torch.cat(out)
    back = torch.empty_like(orders[0])
    back[orders[0]] = torch.arange(len(back), device=back.device)
    return joined[back].view(*q.shape[:3], x.shape[-1])
