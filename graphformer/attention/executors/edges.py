"""The edges executor: only given edges are scored. Cost linear in their number."""

from __future__ import annotations

from graphformer import finite
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import UNKNOWN_NUMBER, Problem
from graphformer.graph import AttentionGraph


def build(problem: Problem) -> AttentionGraph:
    """Sampled dot products, then the slots per receiver."""
    assert problem.edges is not None
    batch, heads, num_receivers, num_senders = problem.sizes
    graph = problem.edges.lanes(batch, heads, num_receivers, num_senders)
    allowed = problem.rule.allow(Listed.of(graph, heads))
    graph = weigh(problem, graph.select(allowed.expand(graph.senders.shape)))
    if problem.sparsify is None:
        return graph
    keep = problem.sparsify.keep(graph.weight.detach(), Listed.of(graph, heads))
    if finite.batched(keep):
        raise ValueError(UNKNOWN_NUMBER)
    return graph.select(keep)


def weigh(problem: Problem, graph: AttentionGraph) -> AttentionGraph:
    """The same edges, weighed by score and normalizer over each receiver's edges."""
    return graph.with_weight(problem.weights(Listed.of(graph, problem.sizes[1])))
