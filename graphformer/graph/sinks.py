"""Attention sinks of a graph, and weights that leave them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.errors import number
from graphformer.graph.attention_graph import AttentionGraph


def sink_nodes(graph: AttentionGraph, factor: float = 5.0, others: int = 0) -> Tensor:
    r"""Bool ``[num_lanes, senders]``: the nodes that get far more than their part of the weights,

    .. math:: S = \{t > 0 : \tfrac{1}{N - t} \sum_i w_{it} > f / N\}

    in a causal graph of N nodes, where N - t receivers may look at node t. The first node, a sink
    of nearly every model, is not counted (attention calibration, ACT, arXiv 2406.15765).

    Args:
        factor: f, how many times an equal part.
        others: the last so many senders are no nodes of the text (magnets, persistent tokens), and
            no sinks.

    Raises:
        ValueError: senders are other nodes than receivers.
    """
    number("factor", factor, least=0.0)
    nodes = graph.num_receivers
    if graph.num_senders != nodes + others:
        raise ValueError(
            f"sinks are of a graph on one set of nodes, and this has {graph.num_senders} senders "
            f"and {nodes} receivers" + f", and {others} others" * (others > 0)
        )
    mass = graph.weight.new_zeros(graph.num_lanes * graph.num_senders)
    mass = mass.index_add(0, graph.senders, graph.weight.detach()).view(graph.num_lanes, -1)
    rows = torch.arange(nodes, 0, -1, device=mass.device)
    found = (mass[:, :nodes] / rows > factor / max(nodes, 1)) & (rows < nodes)
    return F.pad(found, (0, others))


def calibrate_sinks(
    graph: AttentionGraph, beta: float = 0.4, factor: float = 5.0
) -> AttentionGraph:
    r"""Weights of edges from sinks times ``beta``; what is freed goes to the receiver's other edges
    in proportion (ACT, arXiv 2406.15765, section 4), without training.

    .. math::
        w_{it} \leftarrow \beta\, w_{it}\ (t \in S), \qquad
        w_{ij} \leftarrow w_{ij}\,
        \frac{\sum_k w_{ik} - \beta \sum_{t \in S} w_{it}}{\sum_{k \notin S} w_{ik}}

    So each receiver's sum stays what it was; one that has edges from sinks alone stays whole. Which
    nodes are sinks depends on all rows: it is for a finished text, not for decoding.

    Args:
        beta: from 0 to 1. factor: as of :func:`sink_nodes`.
    """
    number("beta", beta, least=0.0, most=1.0)
    from_sink = sink_nodes(graph, factor).flatten()[graph.senders]
    total = graph.in_weight()
    of_sinks = torch.zeros_like(total).index_add(
        0, graph.receivers, torch.where(from_sink, graph.weight, 0.0)
    )
    others = total - of_sinks
    open_rows = others > 0
    safe = torch.where(open_rows, others, torch.ones_like(others))
    grown = torch.where(open_rows, (total - beta * of_sinks) / safe, torch.ones_like(others))
    shrunk = torch.where(open_rows, torch.full_like(others, beta), torch.ones_like(others))
    change = torch.where(from_sink, shrunk[graph.receivers], grown[graph.receivers])
    return graph.with_weight(graph.weight * change)
