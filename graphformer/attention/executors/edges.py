"""The edges executor: only given edges are scored. Cost linear in their number."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from graphformer import finite
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import UNKNOWN_NUMBER, Problem
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.graph import AttentionGraph


def build(problem: Problem) -> AttentionGraph:
    """Sampled dot products, then the slots per receiver."""
    assert problem.edges is not None
    batch, heads, num_receivers, num_senders = problem.sizes
    graph = problem.edges.lanes(batch, heads, num_receivers, num_senders)
    pairs, weight = kept(problem, Listed.of(graph, heads))
    return pairs.graph.with_weight(weight)


def kept(
    problem: Problem,
    pairs: Listed,
    bias: Tensor | None = None,
    check: Callable[[Tensor], None] | None = None,
) -> tuple[Listed, Tensor]:
    """The slots on a list of edges: the pairs that stay, and their weights ``[E]``.

    One text for both shells, and for lists that keep their length (:meth:`Listed.of_fixed_length`).

    Args:
        bias: ``[E]``, added to the logits. check: is shown the logits.
    """
    if not problem.rule.everything:
        allowed = problem.rule.allow(pairs).expand(pairs.sender.shape)
        pairs, *others = pairs.cut(allowed, *(() if bias is None else (bias,)))
        bias = others[0] if others else None
    pairs = problem.rule.placed(pairs)
    weight = problem.weights(pairs, bias=bias, check=check)
    if problem.sparsify is None:
        return pairs, weight
    return refined(problem.sparsify, *cut(problem.sparsify, pairs, weight))


def cut(sparsify: Sparsifier, pairs: Listed, weight: Tensor) -> tuple[Listed, Tensor]:
    """What a sparsifier keeps.

    Raises:
        ValueError: under ``torch.func.vmap``, where samples would have unequal numbers of edges.
    """
    keep = sparsify.keep(weight.detach(), pairs)
    if pairs.there is None and finite.batched(keep):
        raise ValueError(UNKNOWN_NUMBER)
    pairs, weight = pairs.cut(keep, weight)
    return pairs, weight


def refined(sparsify: Sparsifier, pairs: Listed, weight: Tensor) -> tuple[Listed, Tensor]:
    """What a sparsifier makes of the weights that it kept, and the one behind it."""
    weight = pairs.only(sparsify.refine(weight, pairs))
    if sparsify.then is None:
        return pairs, weight
    return refined(sparsify.then, *cut(sparsify.then, pairs, weight))


def weigh(problem: Problem, graph: AttentionGraph) -> AttentionGraph:
    """The same edges, weighed by score and normalizer over each receiver's edges."""
    return graph.with_weight(problem.weights(Listed.of(graph, problem.sizes[1])))
