"""One sequence of many, without its padding."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from graphformer.graph import AttentionGraph
from graphformer.graph.keys import numbers_of
from graphformer.graph.lanes import some_lanes
from graphformer.inspect.streamed import Streamed
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes


def of_sequence(graphs: ModelGraphs, sequence: int) -> ModelGraphs:
    """See :meth:`ModelGraphs.of_sequence`."""
    if not -graphs.batch <= sequence < graphs.batch:
        raise IndexError(
            f"sequence {sequence} does not exist: there are {graphs.batch}, numbered from 0"
        )
    sequence %= graphs.batch
    nodes = {side: _alone(one, sequence) for side, one in graphs.nodes.items()}
    layers = tuple(
        _layer(
            layer,
            sequence,
            graphs.nodes[layer.senders].keep[sequence],
            graphs.nodes[layer.receivers].keep[sequence],
        )
        for layer in graphs.layers
    )
    return replace(graphs, layers=layers, nodes=nodes)


def _alone(nodes: Nodes, sequence: int) -> Nodes:
    keep = nodes.keep[sequence]
    chosen = numbers_of(keep)
    labels = None
    if nodes.labels is not None:
        labels = (tuple(nodes.labels[sequence][i] for i in chosen.tolist()),)
    ids = None if nodes.ids is None else nodes.ids[sequence : sequence + 1, chosen]
    pos = None if nodes.pos is None else nodes.pos[sequence : sequence + 1, chosen]
    texts = None if nodes.texts is None else nodes.texts[sequence : sequence + 1]
    kept = keep[chosen].unsqueeze(0)
    return replace(nodes, keep=kept, labels=labels, ids=ids, pos=pos, texts=texts)


def _layer(layer: LayerGraph, sequence: int, senders: Tensor, receivers: Tensor) -> LayerGraph:
    graph = layer.graph
    heads = max(graph.num_lanes // max(graph.batch_shape[0], 1), 1)
    lanes = list(range(sequence * heads, (sequence + 1) * heads))
    shape = (1, *graph.batch_shape[1:])
    receivers = receivers[len(receivers) - graph.num_receivers :]
    own = without_padding(some_lanes(graph, lanes, shape), senders, receivers)
    norm = layer.value_norm
    return replace(
        layer,
        graph=own,
        value_norm=None
        if norm is None
        else norm[sequence : sequence + 1][..., numbers_of(senders)],
        streamed=None if layer.streamed is None else _streamed(layer.streamed, sequence, senders),
    )


def _streamed(measures: Streamed, sequence: int, senders: Tensor) -> Streamed:
    """Those of one sequence; of the senders' the real ones. Entropy stays a value a receiver."""
    chosen, found = numbers_of(senders), {}
    for name, value in measures.items().items():
        own = value[sequence : sequence + 1]
        long = name in ("sender_mass", "entropy") and own.shape[-1] == len(senders)
        found[name] = own[..., chosen] if long else own
    return Streamed(**found)


def without_padding(graph: AttentionGraph, senders: Tensor, receivers: Tensor) -> AttentionGraph:
    """The same edges with nodes numbered among the real ones, bool ``[Nk]`` and ``[Nq]`` of every
    lane.
    """
    if bool(senders.all()) and bool(receivers.all()):
        return graph
    lane = graph.sender_lane
    sender, receiver = graph.senders % graph.num_senders, graph.receivers % graph.num_receivers
    real = numbers_of(senders[sender] & receivers[receiver])
    lane, sender, receiver = lane[real], sender[real], receiver[real]
    new_sender, new_receiver = senders.cumsum(0) - 1, receivers.cumsum(0) - 1
    num_senders, num_receivers = int(senders.sum()), int(receivers.sum())
    ends = new_sender[sender] + lane * num_senders, new_receiver[receiver] + lane * num_receivers
    sizes = num_senders, num_receivers
    return AttentionGraph.of_sorted(ends, graph.weight[real], sizes, graph.batch_shape)


def padding_cut(graph: AttentionGraph, senders: Tensor, receivers: Tensor) -> AttentionGraph:
    """The graph, lanes ``(B, ...)``, without the edges of padding, bool ``[B, Nk]`` and
    ``[B, Nq]``.
    """
    if bool(senders.all()) and bool(receivers.all()):
        return graph
    heads = max(graph.num_lanes // max(graph.batch_shape[0], 1), 1)
    sequence = torch.div(graph.sender_lane, heads, rounding_mode="floor")
    keep = senders[sequence, graph.senders % graph.num_senders]
    keep &= receivers[sequence, graph.receivers % graph.num_receivers]
    return graph.select(keep)
