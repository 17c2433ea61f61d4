"""What of the first layer's nodes reaches the last layer's: attention rollout and attention flow
(Abnar and Zuidema, arXiv 2005.00928), on sparse graphs.

With ``A_l`` the mean over the heads of layer ``l`` and a residual stream of share ``r``,

    B_l = row-normalised ((1 - r) A_l + r I),      rollout_l = B_l ... B_1,

and the flow from node j to node i is the largest that the layered graph of capacities ``B`` carries
from j below the first layer to i above the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphformer.errors import number, require, whole
from graphformer.graph import AttentionGraph
from graphformer.inspect.value import ModelGraphs


def rollout(
    graphs: ModelGraphs, *, residual: float = 0.5, sequence: int = 0, min_weight: float = 0.0
) -> AttentionGraph:
    """Rollout over all layers of ``graphs``, one lane: an edge for each sender below the first
    layer that reaches a receiver above the last.

    >>> gf.inspect.rollout(graphs.encoder).to_dense()

    Args:
        graphs: self-attention of one stack; choose with ``graphs[2:5]``, ``graphs.encoder``.
        residual: the share of the residual stream, 0 to 1.
        sequence: which.
        min_weight: entries not above it are dropped after each layer, to stay sparse over many.

    Raises:
        ValueError: layers of several stacks, or cross-attention.
    """
    number("min_weight", min_weight, least=0.0)
    total = None
    for step in _steps(graphs, residual, sequence):
        total = step if total is None else step @ total
        if min_weight:
            total.data[total.data <= min_weight] = 0
            total.eliminate_zeros()
    assert total is not None
    return AttentionGraph.from_scipy(total.tocsr())


def flow(
    graphs: ModelGraphs, receiver: int, *, residual: float = 0.5, sequence: int = 0
) -> np.ndarray:
    """The largest flow from each node below the first layer to ``receiver`` above the last,
    ``[N]``. Needs igraph (extra ``viz``).

    Arguments and errors as in :func:`rollout`; IndexError for a receiver that is not there.
    """
    igraph = require("igraph", extra="viz", why="the largest flow")
    steps = _steps(graphs, residual, sequence)
    size = steps[0].shape[0]
    whole("receiver", receiver, 0)
    if receiver >= size:
        raise IndexError(f"receiver {receiver} does not exist: there are {size} nodes")
    ends, capacity = [], []
    for number_, step in enumerate(steps):
        entries = step.tocoo()
        below, above = number_ * size, (number_ + 1) * size
        ends.append(np.stack((entries.col + below, entries.row + above), 1))
        capacity.append(entries.data)
    layered = igraph.Graph(n=size * (len(steps) + 1), edges=np.concatenate(ends), directed=True)
    weights = np.concatenate(capacity).tolist()
    sink = len(steps) * size + receiver
    reached = set(layered.subcomponent(sink, mode="in"))
    return np.array(
        [
            layered.maxflow_value(sender, sink, capacity=weights) if sender in reached else 0.0
            for sender in range(size)
        ]
    )


def _steps(graphs: ModelGraphs, residual: float, sequence: int) -> list[Any]:
    """``B_l`` of each layer, scipy's sparse rows."""
    from scipy.sparse import diags_array, eye_array

    number("residual", residual, least=0.0, most=1.0)
    sides = {(layer.receivers, layer.senders) for layer in graphs.layers}
    if len(sides) != 1 or any(a != b for a, b in sides):
        raise ValueError(
            "rollout and flow run through the self-attention of one stack, and these layers are "
            f"of {sorted(sides)}: choose with graphs.encoder, graphs.decoder or a slice"
        )
    own = graphs.of_sequence(sequence)
    steps = []
    for layer in own.layers:
        graph = layer.graph.detach().to(torch.float64)
        if bool((graph.weight < 0).any()):
            raise ValueError(f"{layer.name} has negative weights, which carry no flow")
        if graph.num_receivers != graph.num_senders:
            raise ValueError(
                f"{layer.name} has {graph.num_receivers} receivers and {graph.num_senders} "
                "senders: call the model without a cache"
            )
        merged = graph.merge_heads("mean") if layer.heads else graph
        matrix = merged.to_scipy().tocsr()
        mixed = (1 - residual) * matrix + residual * eye_array(graph.num_nodes)
        rows = np.asarray(mixed.sum(1)).reshape(-1)
        steps.append((diags_array(1 / np.where(rows > 0, rows, 1)) @ mixed).tocsr())
    return steps
