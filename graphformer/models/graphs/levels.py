"""From one level of a hierarchy to the next coarser one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.models.graphs.data import Level, given_groups
from graphformer.models.graphs.refined import Refined
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.hierarchy import cluster, coarse_edges, number_groups, pool
from graphformer.nn.pairs import Structure


def coarser(
    levels: list[Level], name: str, data: Any, features: Tensor | None, describe: nn.Module
) -> Level:
    """The level above the last one: groups that were given, or clusters of its refined graph.

    Args:
        name: which groups, ``"cluster:2"`` or an attribute of the data.
        features: of the refined edges below ``[E, width]``, where they have some.
        describe: makes the features of edges between groups, from the logarithm of the number of
            edges that became one and the mean of theirs.
    """
    below = levels[-1]
    fine, refined = below.structure, below.refined
    assert refined is not None
    kind, _, times = name.partition(":")
    group = (
        cluster(refined.edges, refined.weight, int(times or 1))
        if kind == "cluster"
        else given_groups(data, name, levels)
    )
    parent, graph = number_groups(group, fine.graph)
    count = len(graph)
    senders, receivers, into = coarse_edges(refined.edges, refined.kept, parent, count)
    joins = into >= 0
    pos = None if fine.pos is None else pool(fine.pos, parent, count, "mean")
    structure = Structure(senders, receivers, graph, fine.num_graphs, pos, periodic=fine.periodic)
    weight = refined.weight.new_zeros(len(senders)).index_add(0, into[joins], refined.weight[joins])
    number = torch.bincount(into[joins], minlength=len(senders)).unsqueeze(-1)
    described = [number.to(below.h.dtype).log1p()]
    if features is not None:
        described.append(pool(features[joins], into[joins], len(senders), "mean"))
    edge_features = describe(torch.cat(described, -1))
    level = Level(structure, below.h.new_zeros(count, below.h.shape[1]), edge_features, parent)
    # The weights between groups are what the new level's first layer starts from.
    edges = EdgeList.sort(senders, receivers, count, count)
    edges = dataclasses.replace(edges, ids=edges.order)
    level.refined = Refined(
        edges, weight[edges.order], torch.ones_like(edges.senders, dtype=torch.bool)
    )
    return level
