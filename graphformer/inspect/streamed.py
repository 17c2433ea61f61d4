"""Measures of whole rows and columns of attention, in one pass over blocks of rows: no edge is
kept and no N x N matrix is held. Memory is O(N * block).

With ``w`` the weights of a head, every candidate counted however small its weight:

==================  ==============================================================  ===========
``sender_mass``     ``m_j = sum_i w_ij``, what H2O (arXiv 2306.14048) and SnapKV    [B, H, Nk]
                    (arXiv 2404.14469) evict keys by
``entropy``         ``e_i = - sum_j w_ij log w_ij``, in nats                        [B, H, Nq]
``distance``        ``p_d = 1/R sum_i sum_{|i - j| = d} w_ij``, over R receivers    [B, H, Nk]
``sink``            ``1/R sum_i w_i0``, the mass at the first sender that is real   [B, H]
==================  ==============================================================  ===========

Positions are those of senders: with a cache, the last receiver stands at the last sender.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.executors import blocks
from graphformer.attention.problem import Problem, pose
from graphformer.attention.scores import ScaledDotProduct, choose_score
from graphformer.errors import require_known, strict_flags
from graphformer.frozen.capture import Attention

MEASURES = ("sender_mass", "entropy", "distance", "sink")
Weighed = Iterator[tuple[blocks.Stretch, Tensor]]


@dataclass(frozen=True, eq=False)
class Streamed:
    """The measures of this file for one layer; None for those that were not asked for, and for
    distances between two texts (cross-attention).
    """

    sender_mass: Tensor | None = None
    entropy: Tensor | None = None
    distance: Tensor | None = None
    sink: Tensor | None = None

    def items(self) -> dict[str, Tensor]:
        """Those that were measured."""
        found = {name: getattr(self, name) for name in MEASURES}
        return {name: value for name, value in found.items() if value is not None}


def sender_mass(q: Tensor, k: Tensor, **slots: Any) -> Tensor:
    """The attention that each sender gets, ``[B, H, Nk]``: the column sums of the weights.

    >>> keep = gf.inspect.sender_mass(q, k, is_causal=True).topk(256).indices

    Args:
        q, k: queries ``[B, H, Nq, d]`` and keys ``[B, Hkv, Nk, d]``.
        slots: ``candidates``, ``attention_mask``, ``is_causal``, ``scale``, ``sharpening``,
            ``score``, ``normalize``, as in :func:`graphformer.attention_graph`.

    Raises:
        ValueError, TypeError: as :func:`graphformer.attention_graph`.
    """
    return measure(q, k, ("sender_mass",), **slots).sender_mass  # type: ignore[return-value]


def entropy(q: Tensor, k: Tensor, **slots: Any) -> Tensor:
    """The entropy of each receiver's weights in nats, ``[B, H, Nq]``. Arguments as in
    :func:`sender_mass`.
    """
    return measure(q, k, ("entropy",), **slots).entropy  # type: ignore[return-value]


def distance_profile(q: Tensor, k: Tensor, **slots: Any) -> Tensor:
    """The mean weight that goes to senders at each distance, ``[B, H, Nk]``; a row's sum is the
    mean sum of the weights (1 for softmax). Arguments as in :func:`sender_mass`.
    """
    return measure(q, k, ("distance",), **slots).distance  # type: ignore[return-value]


def sink_mass(q: Tensor, k: Tensor, **slots: Any) -> Tensor:
    """The mean weight at the first sender, ``[B, H]`` (attention sinks, arXiv 2309.17453); the
    first that ``attention_mask [B, Nk]`` calls real. Arguments as in :func:`sender_mass`.
    """
    return measure(q, k, ("sink",), **slots).sink  # type: ignore[return-value]


@strict_flags
@torch.no_grad()
def measure(
    q: Tensor,
    k: Tensor,
    measures: Sequence[str] = MEASURES,
    *,
    candidates: Any = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    sharpening: Tensor | float = 1.0,
    score: Any = None,
    normalize: Any = "softmax",
) -> Streamed:
    """Several measures in one pass; see the head of this file."""
    problem = pose(
        q,
        k,
        candidates=candidates,
        attention_mask=attention_mask,
        is_causal=is_causal,
        score=choose_score(score, scale, sharpening),
        normalize=normalize,
    )
    first = None
    if attention_mask is not None and attention_mask.ndim == 2:
        first = attention_mask.bool().int().argmax(-1)
    return of_problem(problem, measures, first=first)


def of_problem(
    problem: Problem,
    measures: Sequence[str] = MEASURES,
    *,
    receivers: Tensor | None = None,
    first: Tensor | None = None,
) -> Streamed:
    """The measures of the weights before anything is cut.

    Args:
        receivers: bool ``[B, Nq]``: which of them count.
        first: int64 ``[B]``: the first real sender of each sequence; 0 when left out.
    """
    if problem.edges is not None:
        raise TypeError(
            "streamed measures take rules, not explicit edges: build the graph with "
            "attention_graph, which is sparse already"
        )
    problem.require_finite()
    return _sum_up(problem, lambda: _weighed(problem), measures, receivers, first)


@torch.no_grad()
def of_attention(
    attention: Attention,
    measures: Sequence[str] = MEASURES,
    *,
    receivers: Tensor | None = None,
    first: Tensor | None = None,
) -> Streamed:
    """The measures of a pre-trained model's own weights, its soft cap, bias and sinks counted."""
    with torch.autocast(attention.query.device.type, enabled=False):
        problem = pose(
            attention.query.detach(),
            attention.key.detach(),
            attention_mask=attention.allowed,
            is_causal=attention.causal,
            score=ScaledDotProduct(attention.scale),
        )
        problem.require_finite()

        def weighed() -> Weighed:
            room = blocks.Room(problem)
            q, k = problem.q.contiguous(), problem.k.contiguous()
            sinks = attention.sinks
            for block in blocks.walk(problem):
                yield (
                    block,
                    blocks.softmax_weights(
                        problem,
                        q,
                        k,
                        block,
                        room,
                        softcap=attention.softcap,
                        sinks=None if sinks is None else sinks.detach().to(q.dtype),
                        bias=None if attention.bias is None else attention.bias.detach(),
                    ),
                )

        return _sum_up(problem, weighed, measures, receivers, first)


def _weighed(problem: Problem) -> Weighed:
    """Blocks of the weights of any slots, ``[lanes, rows, columns]``."""
    if problem.is_softmax:
        room, q, k = blocks.Room(problem), problem.q.contiguous(), problem.k.contiguous()
        for block in blocks.walk(problem):
            yield block, blocks.softmax_weights(problem, q, k, block, room)
        return
    for block in blocks.walk(problem, problem.sizes[1], problem.score.cost):
        yield block, problem.weights(blocks.pairs_of(problem, block)).flatten(0, 1)


def _sum_up(
    problem: Problem,
    weighed: Callable[[], Weighed],
    measures: Sequence[str],
    receivers: Tensor | None,
    first: Tensor | None,
) -> Streamed:
    for name in measures:
        require_known("measure", name, MEASURES)
    batch, heads, num_receivers, num_senders = problem.sizes
    lanes, device = batch * heads, problem.q.device
    real = torch.ones(batch, num_receivers, dtype=torch.bool, device=device)
    real = (real if receivers is None else receivers.to(device)).to(problem.q.dtype)
    first = torch.zeros(batch, dtype=torch.int64, device=device) if first is None else first
    new = problem.q.new_zeros
    mass, distance = new(lanes, num_senders), new(lanes, max(num_senders, num_receivers))
    spread, sink = new(lanes, num_receivers), new(lanes)
    for block, weights in weighed():
        lane = torch.arange(block.lanes.start, block.lanes.stop, device=device)
        sequence = torch.div(lane, heads, rounding_mode="floor")
        rows = slice(block.rows.start, block.rows.stop)
        columns = slice(block.columns.start, block.columns.stop)
        if receivers is not None:
            weights = weights.mul_(real[sequence, rows].unsqueeze(-1))
        own = slice(block.lanes.start, block.lanes.stop)
        if "sender_mass" in measures:
            mass[own, columns] += weights.sum(1)
        if "sink" in measures:
            place = first[sequence] - columns.start
            here = (place >= 0) & (place < weights.shape[2])
            at = place.clamp(0, max(weights.shape[2] - 1, 0))
            taken = weights.sum(1).gather(1, at.unsqueeze(1)).squeeze(1)
            sink[own] += torch.where(here, taken, torch.zeros_like(taken))
        if "distance" in measures:
            row = torch.arange(rows.start, rows.stop, device=device).unsqueeze(1)
            column = torch.arange(columns.start, columns.stop, device=device)
            apart = (row + (num_senders - num_receivers) - column).abs().flatten()
            distance[own] = distance[own].index_add(1, apart, weights.flatten(1))
        if "entropy" in measures:  # the last, because it is computed in place
            spread[own, rows] -= torch.special.xlogy(weights, weights).sum(-1)
    count = real.sum(-1).clamp(min=1).repeat_interleave(heads)
    found = {
        "sender_mass": mass.view(batch, heads, -1),
        "entropy": spread.view(batch, heads, -1),
        "distance": (distance / count.unsqueeze(1))[:, :num_senders].view(batch, heads, -1),
        "sink": (sink / count).view(batch, heads),
    }
    return Streamed(**{name: found[name] for name in measures})
