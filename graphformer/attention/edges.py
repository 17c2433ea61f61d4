"""The edges executor: only explicit candidate edges are scored. Cost linear in their number."""

from __future__ import annotations

import torch

from graphformer.attention.candidates import Pairs
from graphformer.attention.problem import Problem
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
    allowed = problem.rule.allow(pairs).expand(lane.shape)
    graph, lane = graph.select(allowed), lane[allowed]
    # A key head serves a group of query heads, so the sender's lane among the keys is not its lane among the queries.
    kv_heads = problem.k.shape[1]
    kv_lane = torch.div(lane, heads, rounding_mode="floor") * kv_heads + torch.div(lane % heads, heads // kv_heads, rounding_mode="floor")
    q = problem.q.flatten(0, 2)[graph.receivers]
    k = problem.k.flatten(0, 2)[kv_lane * num_senders + graph.senders % max(num_senders, 1)]
    scores = problem.score.edges(q, k)
    total = batch * heads * num_receivers
    graph = graph.with_weight(problem.normalize.edges(scores, graph.receivers, total))
    if problem.sparsify is None:
        return graph
    return graph.select(problem.sparsify.edges(graph.weight.detach(), graph.receivers, total))
