"""Edges of rules that can list their senders: rows of few senders each, never all pairs.

Windows, clusters and blocks leave about sqrt(n) senders of n to a row. Whole rows are taken
together until a list holds :data:`LIMIT` pairs, each list goes through the slots as given edges do,
and is made again in the backward pass: time and memory follow the pairs that are listed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from graphformer.attention.candidates.senders import Senders
from graphformer.attention.executors import edges
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import Problem
from graphformer.graph import AttentionGraph
from graphformer.recomputing import recomputed

LIMIT = 2**18
"""Pairs of a list; a single row may have more."""
ROWS = 256
"""Receivers of a block, about."""
WORTH = 8
"""A pair of a list costs as much as so many of a block, whose products are those of matrices."""


def of(problem: Problem) -> Senders | None:
    """The problem's pairs as lists, where these are so few beside those of blocks that it pays."""
    batch, heads, num_receivers, num_senders = sizes = problem.sizes
    found = problem.rule.listed(sizes, problem.q.device)
    if found is None:
        return None
    scored = 0
    for start in range(0, num_receivers, ROWS):
        rows = range(start, min(start + ROWS, num_receivers))
        scored += len(rows) * len(problem.rule.reach(rows, num_receivers, num_senders))
    number = int(found.counts(batch, heads).sum())
    return found if WORTH * number < batch * heads * scored else None


def find(problem: Problem, lists: Senders) -> tuple[Tensor, Tensor, Tensor]:
    """Senders, receivers and weights of the kept edges of all lanes, in their order."""
    parts = [
        recomputed(_edges, problem, problem.q, problem.k, lists, *part)
        for part in walk(problem, lists)
    ]
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return senders, receivers, weight


def walk(problem: Problem, lists: Senders) -> Iterator[tuple[range, range]]:
    """Lanes and rows of each list: several lanes as a whole, or some rows of one."""
    batch, heads, num_receivers, _ = problem.sizes
    counts = lists.counts(batch, heads).reshape(batch * heads, num_receivers)
    whole, lane = counts.sum(1).tolist(), 0
    while lane < len(whole):
        if whole[lane] <= LIMIT:
            first, total = lane, 0
            while lane < len(whole) and total + whole[lane] <= LIMIT:
                total += whole[lane]
                lane += 1
            yield range(first, lane), range(num_receivers)
            continue
        ends, start = counts[lane].cumsum(0), 0
        while start < num_receivers:
            before = int(ends[start - 1]) if start else 0
            fitting = int(torch.searchsorted(ends, before + LIMIT, right=True))
            stop = min(max(start + 1, fitting), num_receivers)
            yield range(lane, lane + 1), range(start, stop)
            start = stop
        lane += 1


def _edges(
    problem: Problem, q: Tensor, k: Tensor, lists: Senders, lanes: range, rows: range
) -> tuple[Tensor, Tensor, Tensor]:
    """The kept edges of some rows."""
    batch, heads, num_receivers, num_senders = problem.sizes
    lane, receiver, sender = lists.of(lanes, rows, heads)
    ends = lane * num_senders + sender, lane * num_receivers + receiver
    graph = AttentionGraph.of_sorted(ends, None, (num_senders, num_receivers), (batch, heads))
    pairs = Listed.of(graph, heads)
    (pairs,) = pairs.cut(problem.rule.allow(pairs).expand(pairs.sender.shape))
    pairs = problem.rule.placed(pairs)
    weight = problem.weights(pairs, q, k)
    if problem.sparsify is not None:
        pairs, weight = edges.cut(problem.sparsify, pairs, weight)
    return pairs.graph.senders, pairs.graph.receivers, weight
