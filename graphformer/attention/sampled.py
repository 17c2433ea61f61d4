"""Dot products on the edges of a graph only, without ``[E, d]`` tensors, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from graphformer.backends.torch import bag, edge_dots
from graphformer.graph import AttentionGraph


class SampledScores(Function):
    """``s_e = <q_i, k_j>`` on the edges of a graph, for ``q`` ``[B, H, Nq, d]`` and ``k`` ``[B, Hkv, Nk, d]``."""

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
