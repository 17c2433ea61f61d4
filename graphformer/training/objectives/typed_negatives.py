"""Negatives of typed graphs: minimal subgraphs in which one node is another of its type, and the
two questions about them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphformer.nn.edge_list import check_ends


class TypedSubgraphs(NamedTuple):
    """Minimal subgraphs: one node of each type.

    ``nodes`` int64 ``[S, T]``: in column t a node of type t. ``parents`` int64 ``[S, T]``: the
    column whose node each one was reached from; of the anchor its own.
    """

    nodes: Tensor
    parents: Tensor


class Swapped(NamedTuple):
    """Negatives of subgraphs: ``nodes`` int64 ``[S, T]`` with the node of column ``column`` (int64
    ``[S]``) another one of its type. ``of`` int64 ``[S]``: the subgraph that each was made of.
    """

    nodes: Tensor
    column: Tensor
    of: Tensor


def typed_subgraphs(
    senders: Tensor,
    receivers: Tensor,
    node_type: Tensor,
    anchors: Tensor,
    generator: torch.Generator | None = None,
) -> TypedSubgraphs:
    """One node of every type for each anchor, connected: from the nodes found so far a random edge
    to a type that is not there yet, until all types are. Edges count both ways. Anchors from which
    some type cannot be reached so are left out: compare ``len(found.nodes)`` with their number.

    Args:
        senders, receivers: int64 ``[E]``.
        node_type: int64 ``[N]``, types from 0.
        anchors: int64 ``[A]``.
        generator: of the choices.

    Raises:
        ValueError: ends out of range, a type without nodes.

    Source: the minimal ontology subgraph of POGAT (perturbed ontology graph attention): one node
    of each type of the schema, joined by its relations.
    """
    size = len(node_type)
    check_ends(senders, receivers, size, size, "senders and receivers")
    types = _types(node_type)
    near: list[list[int]] = [[] for _ in range(size)]
    for a, b in zip(senders.tolist(), receivers.tolist(), strict=True):
        near[a].append(b)
        near[b].append(a)
    kind = node_type.tolist()
    nodes, parents = [], []
    for anchor in anchors.tolist():
        found, reached = {kind[anchor]: anchor}, {kind[anchor]: kind[anchor]}
        while len(found) < types:
            ways = [
                (type_, other)
                for type_, node in found.items()
                for other in near[node]
                if kind[other] not in found
            ]
            if not ways:
                break
            at, other = ways[int(torch.randint(len(ways), (1,), generator=generator))]
            found[kind[other]], reached[kind[other]] = other, at
        if len(found) == types:
            nodes.append([found[t] for t in range(types)])
            parents.append([reached[t] for t in range(types)])
    shape = -1, types
    return TypedSubgraphs(
        torch.tensor(nodes, dtype=torch.int64).view(shape),
        torch.tensor(parents, dtype=torch.int64).view(shape),
    )


def swapped_nodes(
    subgraphs: TypedSubgraphs,
    senders: Tensor,
    receivers: Tensor,
    node_type: Tensor,
    generator: torch.Generator | None = None,
) -> Swapped:
    """For each subgraph a negative: the node of a random column becomes another of its type that
    lacks an edge which held the subgraph together. Where there is no such node in any column, there
    is no negative.

    Args:
        subgraphs: of :func:`typed_subgraphs`, of the same graph.
        senders, receivers, node_type, generator: as there.

    Source: the perturbed subgraphs of POGAT.
    """
    size, types = len(node_type), _types(node_type)
    check_ends(senders, receivers, size, size, "senders and receivers")
    pairs = zip(senders.tolist(), receivers.tolist(), strict=True)
    joined = {end for a, b in pairs for end in ((a, b), (b, a))}
    members = [(node_type == t).nonzero().flatten().tolist() for t in range(types)]
    nodes, columns, of = [], [], []
    both = zip(subgraphs.nodes.tolist(), subgraphs.parents.tolist(), strict=True)
    for number, (row, parent) in enumerate(both):
        for column in torch.randperm(types, generator=generator).tolist():
            beside = [row[t] for t in range(types) if t != column and parent[t] == column]
            if parent[column] != column:
                beside.append(row[parent[column]])
            others = [
                one
                for one in members[column]
                if one != row[column] and any((one, other) not in joined for other in beside)
            ]
            if others:
                chosen = others[int(torch.randint(len(others), (1,), generator=generator))]
                nodes.append([chosen if t == column else row[t] for t in range(types)])
                columns.append(column)
                of.append(number)
                break
    return Swapped(
        torch.tensor(nodes, dtype=torch.int64).view(-1, types),
        torch.tensor(columns, dtype=torch.int64),
        torch.tensor(of, dtype=torch.int64),
    )


def subgraph_discrimination(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Graph level: is the subgraph one of the graph? With logits ``[P]`` and ``[M]``,

    .. math:: L = \frac1{P + M} \Big( \sum_p \log(1 + e^{-s_p}) + \sum_m \log(1 + e^{s_m}) \Big)
    """
    for name, logits in (("positive", positive), ("negative", negative)):
        if logits.ndim != 1 or not len(logits):
            raise ValueError(f"{name} must be logits [S] of at least one, got {list(logits.shape)}")
    logits = torch.cat((-positive, negative))
    return torch.nn.functional.softplus(logits).mean()


def node_discrimination(logits: Tensor, column: Tensor) -> Tensor:
    r"""Node level: which node of a negative is the swapped one? With logits ``[M, T]`` of each node
    and the columns c,

    .. math:: L = -\frac1M \sum_m \log \frac{e^{s_{m c_m}}}{\sum_t e^{s_{mt}}}
    """
    if logits.ndim != 2 or column.shape != logits.shape[:1] or not len(column):
        raise ValueError(
            f"logits must be [M, T] and column [M] of at least one, got {list(logits.shape)} and "
            f"{list(column.shape)}"
        )
    return torch.nn.functional.cross_entropy(logits, column)


def _types(node_type: Tensor) -> int:
    counts = torch.bincount(node_type)
    if node_type.ndim != 1 or not len(node_type) or not bool((counts > 0).all()):
        raise ValueError("node_type must number the types from 0, each with a node at least")
    return len(counts)
