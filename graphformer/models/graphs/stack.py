"""The layers of a graph transformer: a block for every level, made from the model's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from graphformer.attention.head import Head
from graphformer.attention.relations import Relation
from graphformer.models.graphs.edge_update import EdgeUpdate
from graphformer.models.graphs.parts import Block, Layer, make_conv
from graphformer.models.graphs.refined import Merge


def stack(
    settings: Mapping[str, Any],
    operators: Sequence[str],
    heads: Sequence[Head | None],
    options: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    relations: Sequence[Relation],
    depths: int,
    edge_widths: tuple[int | None, int],
) -> nn.ModuleList:
    """A layer for each operator.

    Args:
        settings: the model's arguments.
        operators, heads: one a layer. options: by operator.
        shared: what all layers on edges are given.
        relations: of the finest level.
        depths: levels.
        edge_widths: of the features of pairs at the finest level, None where they have none, and at
            the coarser ones.
    """
    hidden_size, num_heads = settings["hidden_size"], settings["num_heads"]
    refine, merge, dropout = bool(settings["refine"]), settings["merge"], settings["dropout"]
    parts: dict[str, Any] = {name: settings[name] for name in ("feed_forward", "norm")}
    hidden = settings["intermediate_size"]
    parts["intermediate_size"] = 2 * hidden_size if hidden is None else hidden
    layers = nn.ModuleList()
    last, top = len(operators) - 1, depths - 1
    for i, name in enumerate(operators):
        blocks = []
        for depth in range(depths):
            conv = make_conv(
                name,
                hidden_size,
                num_heads,
                edge_widths[min(depth, 1)],
                options.get(name, {}),
                head=heads[i],
                relations=() if depth else relations,
                **shared,
            )
            read_later = refine and (i < last or (i == 0 and depth < top))
            kind = merge if read_later or merge != "learned" else "mean"
            parts["merge"] = Merge(kind, num_heads)
            parts["initial_residual"] = settings["initial_residual"] if i else None
            prior = refine and (i > 0 or depth > 0)
            blocks.append(Block(conv, hidden_size, dropout, prior=prior, **parts))
        edges = None
        if settings["edge_update"] and i < last:
            edges = [EdgeUpdate(hidden_size, edge_widths[1], dropout) for _ in blocks]
        layers.append(Layer(blocks, hidden_size, edges))
    for level in zip(*(layer.blocks for layer in layers), strict=True):
        read = any(block.conv.features.reads_first for block in level)
        for block in level:
            block.later_read = read
    return layers
