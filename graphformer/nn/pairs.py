"""Which pairs of nodes a layer of a graph transformer may score: the given edges and what can be
read off them, by name.

=============== ====================================================================================
``edges``       the given edges, each with its features; equal pairs stay separate
``k_hop:2``     a path of at most 2 given edges leads from sender to receiver
``knn:8``       the sender is one of the receiver's 8 nearest in ``pos`` (of equally far ones the
                lower number)
``radius:5.0``  nodes at most 5 apart in ``pos``
``expander:4``  4 random partners a node, the same for every graph of so many nodes (arXiv
                2303.06147): few steps from anywhere to anywhere. They depend on how nodes are
                numbered, so a model that uses them is not permutation equivariant
``retrieve``    retrieve and read: of the given edges those between nodes of the context, and every
                pair of a query node (``data.is_query``) and a context node of a graph, both ways
``all``         every pair of different nodes of a graph
``self``        each node with itself
=============== ====================================================================================

``edges+knn:8`` is a union. A given edge that such a rule finds too counts once, with its features.
No pair joins two graphs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphformer.graph.keys import pair_keys, split_keys
from graphformer.nn.edge_list import EdgeList

PAIR_LIMIT = 2**26
"""More pairs than this (half a gigabyte of numbers for each of several tensors) are refused before
memory runs out.
"""

Ends = tuple[Tensor, Tensor]
"""Senders and receivers."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A batch of graphs as one disjoint graph.

    Attributes:
        senders, receivers: int64 ``[E]``, the given edges.
        graph: int64 ``[N]``, ascending: the graph of each node.
        num_graphs: graphs, empty ones included.
        pos: floating ``[N, dims]``, where nodes are in space.
        periodic: whether what is in space is there again in all images of a cell.
        query: bool ``[N]``, the query nodes; the others are their context.
        stored: what was computed beforehand, by :func:`stored_name`.
    """

    senders: Tensor
    receivers: Tensor
    graph: Tensor
    num_graphs: int
    pos: Tensor | None = None
    stored: dict[str, Tensor] = field(default_factory=dict)
    periodic: bool = False
    query: Tensor | None = None

    @property
    def num_nodes(self) -> int:
        return self.graph.shape[0]

    @property
    def sizes(self) -> Tensor:
        """int64 ``[num_graphs]``: nodes of each graph."""
        return torch.bincount(self.graph, minlength=self.num_graphs)

    def positions(self, asked_by: str) -> Tensor:
        if self.pos is None:
            raise ValueError(f"{asked_by!r} needs the positions of nodes: data.pos is missing")
        if self.periodic:
            raise ValueError(
                f"{asked_by!r} sees no periodic images, and data.cell says that there are: take "
                "candidates='edges' and what data.edge_attr tells of distances, or leave data.cell "
                "out of data that are not periodic"
            )
        return self.pos

    def each(self) -> list[tuple[int, int, Tensor, Tensor]]:
        """First node, number of nodes, and edges numbered from 0, of every graph."""
        of_edge = self.graph[self.senders]
        order = torch.argsort(of_edge, stable=True)
        counts = torch.bincount(of_edge, minlength=self.num_graphs).tolist()
        out, first = [], 0
        parts = zip(
            self.sizes.tolist(),
            self.senders[order].split(counts),
            self.receivers[order].split(counts),
            strict=True,
        )
        for size, senders, receivers in parts:
            out.append((first, size, senders - first, receivers - first))
            first += size
        return out


def stored_name(kind: str, spec: str) -> str:
    """The attribute of PyG's ``Data`` for what was computed beforehand. PyG renumbers what has
    ``index`` in its name when it batches.
    """
    plain = spec.replace(":", "_").replace(".", "_")
    return f"candidates_{plain}_index" if kind == "candidates" else f"encoding_{plain}"


# ---------------------------------------------------------------------- the rules


def ranges(counts: Tensor) -> Tensor:
    """``[2, 0, 3]`` to ``[0, 1, 0, 1, 2]``."""
    total = int(counts.sum())
    starts = torch.cumsum(counts, 0) - counts
    return torch.arange(total, device=counts.device) - starts.repeat_interleave(counts)


def refuse_too_many(pairs: int, spec: str) -> None:
    if pairs > PAIR_LIMIT:
        raise ValueError(
            f"candidates {spec!r} make {pairs:,} pairs in this batch, more than {PAIR_LIMIT:,}: "
            "take smaller batches, fewer hops, 'expander:4' or 'knn:8'"
        )


def hops(
    senders: Tensor, receivers: Tensor, num_nodes: int, most: int, spec: str
) -> tuple[Tensor, Tensor]:
    """Pairs at a distance of 1 to ``most`` edges: ``receiver * num_nodes + sender``, ascending, and
    the distance.
    """
    apart = senders != receivers
    found = torch.unique(pair_keys(receivers[apart], senders[apart], num_nodes, num_nodes))
    distance = torch.ones_like(found)
    to, from_ = split_keys(found, num_nodes)
    order = torch.argsort(from_, stable=True)
    out, degree = to[order], torch.bincount(from_, minlength=num_nodes)
    start = torch.cumsum(degree, 0) - degree
    for steps in range(2, most + 1):
        count = degree[to]
        refuse_too_many(int(count.sum()), spec)
        nexts = out[start[to].repeat_interleave(count) + ranges(count)]
        firsts = from_.repeat_interleave(count)
        new = torch.unique(pair_keys(nexts, firsts, num_nodes, num_nodes)[nexts != firsts])
        new = new[~torch.isin(new, found)]
        if not len(new):
            break
        to, from_ = split_keys(new, num_nodes)
        found, order = torch.cat((found, new)).sort()
        distance = torch.cat((distance, torch.full_like(new, steps)))[order]
    return found, distance


def k_hop(structure: Structure, k: int) -> Ends:
    keys, _ = hops(structure.senders, structure.receivers, structure.num_nodes, k, f"k_hop:{k}")
    receivers, senders = split_keys(keys, structure.num_nodes)
    return senders, receivers


def knn(structure: Structure, k: int) -> Ends:
    return _by_tree(structure, f"knn:{k}", lambda tree, points: _nearest(tree, points, k))


def radius(structure: Structure, r: float) -> Ends:
    return _by_tree(structure, f"radius:{r}", lambda tree, points: _within(tree, r))


def _by_tree(structure: Structure, spec: str, ask: Callable) -> Ends:
    """Each graph's pairs from a k-d tree of its positions."""
    from scipy.spatial import cKDTree

    pos = structure.positions(spec).detach().cpu().double().numpy()
    senders, receivers, first = [], [], 0
    for size in structure.sizes.tolist():
        if size > 1:
            points = pos[first : first + size]
            from_, to = ask(cKDTree(points), points)
            senders.append(torch.as_tensor(from_, dtype=torch.int64) + first)
            receivers.append(torch.as_tensor(to, dtype=torch.int64) + first)
        first += size
    none = torch.zeros(0, dtype=torch.int64)
    device = structure.graph.device
    return torch.cat((none, *senders)).to(device), torch.cat((none, *receivers)).to(device)


def _nearest(tree, points, k: int):  # type: ignore[no-untyped-def]
    """Ranked by distance, then by number: which of several equally far ones a tree finds is an
    accident of how it was built.
    """
    import numpy as np

    size = len(points)
    wanted = min(k, size - 1)
    far, _ = tree.query(points, k=wanted + 1)  # itself among them
    reach = far[:, -1] * (1 + 1e-9) + 1e-12
    inside = tree.query_ball_point(points, reach, return_sorted=True)
    receivers = np.repeat(np.arange(size), [len(near) for near in inside])
    senders = np.concatenate(inside).astype(np.int64)
    apart = senders != receivers
    senders, receivers = senders[apart], receivers[apart]
    distance = np.linalg.norm(points[senders] - points[receivers], axis=-1)
    order = np.lexsort((senders, np.round(distance, 9), receivers))
    starts = np.searchsorted(receivers[order], np.arange(size))
    rank = np.arange(len(order)) - starts[receivers[order]]
    kept = order[rank < wanted]
    return senders[kept], receivers[kept]


def _within(tree, r: float):  # type: ignore[no-untyped-def]
    import numpy as np

    pairs = tree.query_pairs(r, output_type="ndarray")
    return np.concatenate((pairs[:, 0], pairs[:, 1])), np.concatenate((pairs[:, 1], pairs[:, 0]))


def expander(structure: Structure, degree: int) -> Ends:
    """The union of ``degree / 2`` permutations and their inverses."""
    senders, receivers, first = [], [], 0
    for size in structure.sizes.tolist():
        generator = torch.Generator().manual_seed(size)
        for _ in range((degree + 1) // 2 if size > 1 else 0):
            there = torch.randperm(size, generator=generator)
            here = torch.arange(size)
            senders += [here + first, there + first]
            receivers += [there + first, here + first]
        first += size
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat((none, *senders)).to(structure.graph.device), torch.cat((none, *receivers)).to(
        structure.graph.device
    )


def all_pairs(structure: Structure) -> Ends:
    sizes = structure.sizes
    refuse_too_many(int(sizes.square().sum()), "all")
    first = torch.cumsum(sizes, 0) - sizes
    count = sizes[structure.graph]  # each receiver has as many senders as its graph has nodes
    receivers = torch.arange(structure.num_nodes, device=count.device).repeat_interleave(count)
    return first[structure.graph[receivers]] + ranges(count), receivers


def retrieve(structure: Structure) -> Ends:
    query, graph = structure.query, structure.graph
    if query is None:
        raise ValueError(
            "'retrieve' needs to know the query nodes: data.is_query is missing, a bool for each "
            "node of the data; coarse levels have none"
        )
    sizes = structure.sizes
    asked = torch.bincount(graph[query], minlength=structure.num_graphs)
    refuse_too_many(2 * int((asked * (sizes - asked)).sum()), "retrieve")
    # the nodes of each graph, its query nodes first: every one with all its context nodes
    order = torch.argsort(2 * graph + (~query).long(), stable=True)
    first = torch.cumsum(sizes, 0) - sizes
    asking = order[query[order]]
    number = (sizes - asked)[graph[asking]]
    place = (first + asked)[graph[asking]].repeat_interleave(number) + ranges(number)
    asking, context = asking.repeat_interleave(number), order[place]
    inside = ~query[structure.senders] & ~query[structure.receivers]
    return (
        torch.cat((structure.senders[inside], asking, context)),
        torch.cat((structure.receivers[inside], context, asking)),
    )


def self_pairs(structure: Structure) -> Ends:
    nodes = torch.arange(structure.num_nodes, device=structure.graph.device)
    return nodes, nodes


RULES: dict[str, tuple[Callable[..., Ends], type | None]] = {
    "k_hop": (k_hop, int),
    "knn": (knn, int),
    "radius": (radius, float),
    "expander": (expander, int),
    "retrieve": (retrieve, None),
    "all": (all_pairs, None),
    "self": (self_pairs, None),
}


def check_spec(spec: str) -> str:
    """The text itself, or ValueError with the known rules."""
    parts = spec.split("+")
    for part in parts:
        name, colon, amount = part.partition(":")
        if name == "edges" and not colon:
            continue
        if name not in RULES:
            raise ValueError(
                f"unknown candidates {part!r}; known: edges, k_hop:2, knn:8, radius:5.0, "
                "expander:4, retrieve, all, self, joined by '+'"
            )
        kind = RULES[name][1]
        if kind is None:
            if colon:
                raise ValueError(f"candidates {part!r}: {name} takes no number")
            continue
        try:
            fits = kind(amount) > 0
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"candidates {part!r}: {name} takes a positive "
                f"{'whole number' if kind is int else 'number'}, as in {name}:4"
            )
    return spec


def rule_pairs(structure: Structure, part: str) -> Ends:
    """The pairs of one rule, from what was stored where it was."""
    stored = structure.stored.get(stored_name("candidates", part))
    if stored is not None:
        return stored[0], stored[1]
    name, _, amount = part.partition(":")
    rule, kind = RULES[name]
    return rule(structure) if kind is None else rule(structure, kind(amount))


def candidates(structure: Structure, spec: str) -> tuple[EdgeList, Tensor]:
    """The candidate pairs that ``spec`` names, and for each the number of the given edge that it
    is, or -1.
    """
    size = structure.num_nodes
    parts = spec.split("+")
    given = pair_keys(structure.receivers, structure.senders, size, size)
    numbers = torch.arange(len(given), device=given.device)
    found = [given.new_zeros(0)]
    for part in parts:
        if part != "edges":
            senders, receivers = rule_pairs(structure, part)
            # permutations may have fixed points, and every pair holds a node and itself; a loop
            # in the context was given
            if part not in ("self", "retrieve"):
                senders, receivers = senders[senders != receivers], receivers[senders != receivers]
            found.append(pair_keys(receivers, senders, size, size))
    new = torch.unique(torch.cat(found))
    if "edges" not in parts:
        numbers = numbers[torch.isin(given, new)]
    new = new[~torch.isin(new, given)]
    to, from_ = split_keys(new, size)
    senders, receivers = (
        torch.cat((structure.senders[numbers], from_)),
        torch.cat((structure.receivers[numbers], to)),
    )
    edges = EdgeList.sort(senders, receivers, size, size)
    # Equal pairs that were given are edges of their own in every list; each new pair is there once.
    known = torch.cat((numbers, new + len(given)))
    edges = dataclasses.replace(edges, ids=known[edges.order])
    return edges, torch.cat((numbers, torch.full_like(new, -1)))[edges.order]
