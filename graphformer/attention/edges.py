"""The edges executor: only given edges are scored. Cost linear in their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from graphformer.attention.candidates import Pairs
from graphformer.attention.problem import Problem
from graphformer.backends.torch import bag, edge_dots
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
    return graph.select(problem.sparsify.edges(graph.weight.detach(), graph.receivers, graph.num_lanes * num_receivers))


def weigh(problem: Problem, graph: AttentionGraph) -> AttentionGraph:
    """The same edges, weighed by score and normalizer over each receiver's edges."""
    scores = SampledScores.apply(problem.q, problem.k, graph)
    return graph.with_weight(problem.normalize.edges(scores, graph.receivers, graph.num_lanes * graph.num_receivers))


class SampledScores(Function):
    """``s_e = <q_i, k_j>`` on the edges of a graph, without ``[E, d]`` tensors."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, graph: AttentionGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(q, k)
        rows = key_rows(graph, q.shape[1], k.shape[1])
        return edge_dots(q.flatten(0, 2), k.flatten(0, 2), rows, graph)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k = ctx.saved_tensors
        dq, dk = score_gradients(q, k, ctx.graph, grad)
        return dq, sum_groups(dk, k), None


def key_rows(graph: AttentionGraph, heads: int, kv_heads: int) -> Tensor:
    """Rows of ``k.flatten(0, 2)`` of the edges' senders: a key head serves a group of lanes."""
    if kv_heads == heads:
        return graph.senders
    lane = graph.sender_lane
    batch, head = torch.div(lane, heads, rounding_mode="floor"), lane % heads
    kv_lane = batch * kv_heads + torch.div(head, heads // kv_heads, rounding_mode="floor")
    return kv_lane * graph.num_senders + graph.senders % max(graph.num_senders, 1)


def score_gradients(q: Tensor, k: Tensor, graph: AttentionGraph, grad: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of each edge's score to q ``[B, H, Nq, d]`` and to the keys of every lane ``[B, H, Nk, d]``."""
    batch, heads, _, dim = q.shape
    dq = bag(key_rows(graph, heads, k.shape[1]), k.flatten(0, 2), graph.indptr, grad)
    order, indptr = graph.by_sender
    dk = bag(graph.receivers[order], q.flatten(0, 2), indptr, grad[order])
    return dq.view(q.shape), dk.view(batch, heads, graph.num_senders, dim)


def sum_groups(dk: Tensor, k: Tensor) -> Tensor:
    """Gradients of every lane's keys ``[B, H, Nk, d]``, summed over the heads that share them: k's shape."""
    heads, kv_heads = dk.shape[1], k.shape[1]
    return dk if heads == kv_heads else dk.unflatten(1, (kv_heads, heads // kv_heads)).sum(2)
