"""Reading networks over graphs: the heads' graphs of every layer and level, one graph of the batch
a sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.graph import AttentionGraph
from graphformer.inspect.labels import of_data
from graphformer.inspect.readers.layers import cut
from graphformer.inspect.readers.pretrained import cut_text, finished
from graphformer.inspect.reading import Wanted
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes


def read(
    model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], wanted: Wanted
) -> ModelGraphs:
    """Call the network and read its layers, each at each level of its hierarchy."""
    if wanted.streamed:
        raise ValueError(
            "streamed=True measures the pairs of texts; a GraphTransformer scores the edges of its "
            "data, which are all in its graphs with sparsify=None"
        )
    data = inputs["data"] if "data" in inputs else args[0]
    out = model(*args, **{**inputs, "output_graphs": True})
    groups = _groups(data, out.groups)
    levels = len(groups)
    names = [
        f"layers.{number // levels}" + (f".level {number % levels}" if levels > 1 else "")
        for number in range(len(out.graphs))
    ]
    seen = list(enumerate(names))
    wanted.require(seen)
    sides = [_side(level) for level in range(levels)]
    layers: list[LayerGraph] = []
    for number, name in seen:
        if not wanted.takes(number, name):
            continue
        level = number % levels
        graph = cut(out.graphs[number] if wanted.grad else out.graphs[number].detach(), wanted)
        heads = wanted.heads_of(graph.num_lanes, name)
        graph = by_graph(graph, groups[level], heads)
        side = sides[level]
        layers.append(finished(name, False, graph, side, side, heads, None, None, wanted))
    nodes = {side: _nodes(groups[level]) for level, side in enumerate(sides)}
    nodes[sides[0]] = of_data(nodes[sides[0]], data)
    used = {layer.receivers for layer in layers}
    nodes = {side: one for side, one in nodes.items() if side in used}
    return ModelGraphs(tuple(layers), nodes, type(model).__name__, cut_text(wanted))


def _side(level: int) -> str:
    return f"level {level}" if level else "nodes"


def _groups(data: Any, parents: tuple[Tensor, ...]) -> list[Tensor]:
    """Which graph of the batch each node belongs to, level by level, int64 ``[N]``."""
    batch = getattr(data, "batch", None)
    found = [torch.zeros(data.num_nodes, dtype=torch.int64) if batch is None else batch]
    for parent in parents:
        fine = found[-1]
        count = int(parent.max()) + 1 if parent.numel() else 0
        coarse = fine.new_zeros(count)
        coarse[parent] = fine.to(parent.device)
        found.append(coarse)
    return found


def _nodes(group: Tensor) -> Nodes:
    counts = torch.bincount(group) if group.numel() else group.new_zeros(1)
    places = torch.arange(int(counts.max()) if counts.numel() else 0, device=group.device)
    return Nodes(places < counts.unsqueeze(1), kind="node")


def by_graph(graph: AttentionGraph, group: Tensor, heads: list[int]) -> AttentionGraph:
    """Lanes ``(H,)`` over all nodes of a batch as lanes ``(B, H)`` over the nodes of each graph,
    the smaller ones padded.
    """
    group = group.to(graph.device)
    counts = torch.bincount(group) if group.numel() else group.new_zeros(1)
    size, batch = int(counts.max()), len(counts)
    # The nodes of a graph need not stand beside each other above the finest level.
    order = group.argsort(stable=True)
    place = torch.empty_like(order)
    first = counts.cumsum(0) - counts
    place[order] = torch.arange(len(order), device=graph.device) - first[group[order]]
    lane = graph.sender_lane
    number = lane.new_full((graph.num_lanes,), -1)
    number[heads] = torch.arange(len(heads), device=graph.device)
    new = number[lane]
    keep = new >= 0
    sender, receiver = graph.senders % graph.num_senders, graph.receivers % graph.num_receivers
    lanes = group[receiver] * len(heads) + new
    return AttentionGraph.from_edges(
        (lanes * size + place[sender])[keep],
        (lanes * size + place[receiver])[keep],
        graph.weight[keep],
        num_nodes=size,
        batch_shape=(batch, len(heads)),
    )
