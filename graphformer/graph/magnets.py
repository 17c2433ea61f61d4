"""Magnets: senders that take surplus weight, and graphs without them."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.errors import number, whole
from graphformer.graph.attention_graph import AttentionGraph
from graphformer.graph.sinks import sink_nodes


def redirect_sinks(
    graph: AttentionGraph, magnets: int, beta: float = 0.0, factor: float = 5.0
) -> AttentionGraph:
    r"""Weights of edges from sinks times ``beta``; what is freed goes to the receiver's magnets in
    proportion to what they have (RefAM, arXiv 2509.22650), without training.

    .. math::
        w_{it} \leftarrow \beta\, w_{it}\ (t \in S), \qquad
        w_{im} \leftarrow w_{im} \Bigl(1 + \frac{(1 - \beta) \sum_{t \in S} w_{it}}
        {\sum_{m' \in M} w_{im'}}\Bigr)\ (m \in M)

    So each receiver's sum stays what it was; one without weight at a magnet stays whole. Which
    nodes are sinks (:func:`sink_nodes`, magnets are none) depends on all rows: it is for a finished
    text, not for decoding.

    Args:
        magnets: the last so many senders of each lane, such as those of
            ``All() | Persistent(2, sends=False)``. beta: from 0 to 1. factor: as of
            :func:`sink_nodes`.

    Raises:
        ValueError: numbers of senders, receivers and magnets that do not fit.
    """
    number("beta", beta, least=0.0, most=1.0)
    at_magnet = _from_last(graph, magnets, "magnets")
    from_sink = sink_nodes(graph, factor, magnets).flatten()[graph.senders]

    def summed(where: Tensor) -> Tensor:
        kept = torch.where(where, graph.weight, 0.0)
        return torch.zeros_like(graph.in_weight()).index_add(0, graph.receivers, kept)

    of_magnets = summed(at_magnet)
    open_rows = of_magnets > 0
    freed = (1 - beta) * summed(from_sink)
    grown = 1 + torch.where(open_rows, freed / torch.where(open_rows, of_magnets, 1.0), 0.0)
    shrunk = torch.where(open_rows, beta, 1.0).to(grown.dtype)
    change = torch.where(from_sink, shrunk[graph.receivers], 1.0)
    change = torch.where(at_magnet, grown[graph.receivers], change)
    return graph.with_weight(graph.weight * change)


def without_last(graph: AttentionGraph, count: int, renormalize: bool = False) -> AttentionGraph:
    """The graph without the last so many senders of each lane: what is left of a text's attention
    when its magnets, persistent tokens or blocks are taken out.

    Args:
        count: how many.
        renormalize: divide each receiver's weights by their sum, where that is not 0; else they
            stay what they are.

    Raises:
        ValueError: more than there are.
    """
    left = graph.select(~_from_last(graph, count, "count"))
    width = graph.num_senders - count
    lane, sender = left.sender_lane, left.senders % max(graph.num_senders, 1)
    weight = left.weight
    if renormalize:
        total = left.in_weight()
        weight = weight / torch.where(total != 0, total, torch.ones_like(total))[left.receivers]
    return AttentionGraph.of_sorted(
        (lane * width + sender, left.receivers),
        weight,
        (width, graph.num_receivers),
        graph.batch_shape,
    )


def _from_last(graph: AttentionGraph, count: int, name: str) -> Tensor:
    """Bool ``[E]``: the sender is one of the last so many of its lane."""
    if whole(name, count, 0) > graph.num_senders:
        raise ValueError(
            f"{name}={count} are the last senders of a lane, and the graph has "
            f"{graph.num_senders}: give at most so many"
        )
    return graph.senders % max(graph.num_senders, 1) >= graph.num_senders - count
