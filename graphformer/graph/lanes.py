"""A lane as a graph of its own, and the lanes of several heads as one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from graphformer.errors import number
from graphformer.graph.keys import unique_pairs

if TYPE_CHECKING:
    from graphformer.graph.attention_graph import AttentionGraph


def lane(graph: AttentionGraph, index: int) -> AttentionGraph:
    """One lane as a graph of its own, with nodes numbered from 0."""
    if not -graph.num_lanes <= index < graph.num_lanes:
        raise IndexError(
            f"lane {index} does not exist: this graph has {graph.num_lanes} lanes, numbered from 0"
        )
    index %= graph.num_lanes
    first, last = (
        graph.indptr[index * graph.num_receivers],
        graph.indptr[(index + 1) * graph.num_receivers],
    )
    edges = slice(int(first), int(last))
    sizes = graph.num_senders, graph.num_receivers
    ends = graph.senders[edges] - index * sizes[0], graph.receivers[edges] - index * sizes[1]
    return type(graph).of_sorted(ends, graph.weight[edges], sizes)


def merge_heads(
    graph: AttentionGraph, reduce: str = "sum", *, clamp: float | None = None
) -> AttentionGraph:
    """The heads of each sequence merged into one graph: lanes ``[..., H]`` become ``[...]``.

    ``a_ij = reduce_h w_hij``, over all ``H`` heads (a head without the edge counts as 0 in ``sum``
    and ``mean``), then ``min(a_ij, clamp)``. With ``reduce="sum", clamp=1.0`` this is the graph of
    Sparse-GIN (arXiv 2501.02393, section 2.3).

    Raises:
        ValueError: no head axis is left, or ``reduce`` is not ``sum``, ``mean`` or ``max``.
    """
    if not graph.batch_shape:
        raise ValueError(
            "merge_heads needs a head axis, but this graph is a single lane (batch_shape is ())"
        )
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f"unknown reduce {reduce!r}; known: sum, mean, max")
    *outer, heads = graph.batch_shape
    sequence = torch.div(graph.sender_lane, max(heads, 1), rounding_mode="floor")
    senders = sequence * graph.num_senders + graph.senders % max(graph.num_senders, 1)
    receivers = sequence * graph.num_receivers + graph.receivers % max(graph.num_receivers, 1)
    lanes = math.prod(outer)
    receivers, senders, edge = unique_pairs(
        receivers, senders, lanes * graph.num_receivers, lanes * graph.num_senders
    )
    if reduce == "max":
        weight = graph.weight.new_zeros(senders.shape).scatter_reduce(
            0, edge, graph.weight, "amax", include_self=False
        )
    else:
        weight = graph.weight.new_zeros(senders.shape).index_add(0, edge, graph.weight)
        weight = weight / heads if reduce == "mean" else weight
    if clamp is not None:
        weight = weight.clamp(max=number("clamp", clamp))
    sizes = graph.num_senders, graph.num_receivers
    return type(graph).of_sorted((senders, receivers), weight, sizes, tuple(outer))


def some_lanes(
    graph: AttentionGraph, indices: list[int], batch_shape: tuple[int, ...]
) -> AttentionGraph:
    """Some lanes of a graph, in that order, as the lanes of a graph of their own."""
    rows, parts = graph.num_receivers, []
    starts = graph.indptr[:: max(rows, 1)].tolist() if rows else [0] * (graph.num_lanes + 1)
    for new, old in enumerate(indices):
        edges = slice(starts[old], starts[old + 1])
        parts.append(
            (
                graph.senders[edges] + (new - old) * graph.num_senders,
                graph.receivers[edges] + (new - old) * rows,
                graph.weight[edges],
            )
        )
    none = graph.senders[:0]
    parts = parts or [(none, none, graph.weight[:0])]
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return type(graph).of_sorted(
        (senders, receivers), weight, (graph.num_senders, rows), batch_shape
    )
