"""The edges executor: only given edges are scored. Cost linear in their number."""

from __future__ import annotations

import torch

from graphformer import finite
from graphformer.attention.candidates import Pairs
from graphformer.attention.problem import UNKNOWN_NUMBER, Problem
from graphformer.graph import AttentionGraph


def build(problem: Problem) -> AttentionGraph:
    """Sampled dot products, then the slots per receiver."""
    assert problem.edges is not None
    batch, heads, num_receivers, num_senders = problem.sizes
    graph = problem.edges.lanes(batch, heads, num_receivers, num_senders)
    lane = graph.sender_lane
    pairs = Pairs(
        torch.div(lane, heads, rounding_mode="floor"),
        lane % heads,
        graph.receivers % max(num_receivers, 1),
        graph.senders % max(num_senders, 1),
        num_receivers,
        num_senders,
    )
    graph = weigh(problem, graph.select(problem.rule.allow(pairs).expand(lane.shape)))
    if problem.sparsify is None:
        return graph
    keep = problem.sparsify.edges(
        graph.weight.detach(), graph.receivers, graph.num_lanes * num_receivers
    )
    if finite.batched(keep):
        raise ValueError(UNKNOWN_NUMBER)
    return graph.select(keep)


def weigh(problem: Problem, graph: AttentionGraph) -> AttentionGraph:
    """The same edges, weighed by score and normalizer over each receiver's edges."""
    return graph.with_weight(
        problem.score.edge_weights(problem.q, problem.k, graph, problem.normalize)
    )
