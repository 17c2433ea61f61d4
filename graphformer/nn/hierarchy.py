"""Coarse graphs: which nodes make one, which edges join them, and what passes between the levels.

Groups are given (atoms of a monomer, residues of a helix, pixels of a grain) or found:
:func:`cluster` joins the nodes that the refined graph binds most strongly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.graph.keys import unique_pairs
from graphformer.nn.edge_list import EdgeList

ROUNDS = 16
"""Rounds of one matching. Each costs what the edges cost, and what is still single then stays
single.
"""


def pool(x: Tensor, group: Tensor, num_groups: int, how: str) -> Tensor:
    """``sum``, ``mean`` or ``max`` of the rows of each group, ``[num_groups, D]``; an empty group
    gets 0.
    """
    if how == "max":
        index = group.unsqueeze(-1).expand_as(x)
        top = x.new_zeros(num_groups, x.shape[-1]).scatter_reduce(
            0, index, x.detach(), "amax", include_self=False
        )
        # scatter_reduce divides by 0 in its own gradient where a group is empty; this shares the
        # slope among equal maxima.
        attained = (x.detach() == top[group]).to(x.dtype)
        ties = x.new_zeros(num_groups, x.shape[-1]).index_add(0, group, attained).clamp(min=1)
        return x.new_zeros(num_groups, x.shape[-1]).index_add(0, group, x * attained) / ties
    total = x.new_zeros(num_groups, x.shape[-1]).index_add(0, group, x)
    if how == "sum":
        return total
    return total / torch.bincount(group, minlength=num_groups).clamp(min=1).unsqueeze(-1).to(
        x.dtype
    )


def symmetric(edges: EdgeList, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs ``a < b`` of different nodes, and the summed weight of the edges between them in both
    directions.
    """
    apart = edges.senders != edges.receivers
    senders, receivers, size = edges.senders[apart], edges.receivers[apart], edges.num_senders
    a, b, pair = unique_pairs(
        torch.minimum(senders, receivers), torch.maximum(senders, receivers), size, size
    )
    return a, b, weight.new_zeros(a.shape).index_add(0, pair, weight[apart])


def match(a: Tensor, b: Tensor, weight: Tensor, num_nodes: int) -> Tensor:
    """Heavy-edge matching: each node's partner, or itself. int64 ``[num_nodes]``.

    In every round the pairs that are heavier than all other pairs at both their ends are joined,
    and their nodes are gone. Nothing depends on an order of visits, so this is permutation
    equivariant; only of equally heavy pairs the first is taken.
    """
    partner = torch.arange(num_nodes, device=a.device)
    number = torch.arange(len(a), device=a.device)
    free = weight > 0
    for _ in range(ROUNDS):
        a, b, weight, number = a[free], b[free], weight[free], number[free]
        if not len(a):
            break
        ends = torch.cat((a, b))
        best = weight.new_zeros(num_nodes).scatter_reduce(0, ends, weight.repeat(2), "amax")
        heaviest = (weight == best[a]) & (weight == best[b])
        late = torch.where(heaviest, number, number.max() + 1)
        first = late.new_full((num_nodes,), int(number.max()) + 1).scatter_reduce(
            0, ends, late.repeat(2), "amin"
        )
        chosen = heaviest & (first[a] == number) & (first[b] == number)
        partner = partner.index_copy(0, a[chosen], b[chosen]).index_copy(0, b[chosen], a[chosen])
        taken = torch.zeros(num_nodes, dtype=torch.bool, device=a.device)
        taken[torch.cat((a[chosen], b[chosen]))] = True
        free = ~(taken[a] | taken[b])
    return partner


@torch.no_grad()
def cluster(edges: EdgeList, weight: Tensor, matchings: int) -> Tensor:
    """Clusters of up to ``2 ** matchings`` nodes: matched pairs are joined, and their joint graph
    is matched again.

    Returns:
        int64 ``[N]``: the lowest node of each node's cluster.
    """
    a, b, total = symmetric(edges, weight.detach())
    group = torch.arange(edges.num_senders, device=a.device)
    for _ in range(matchings):
        partner = match(a, b, total, edges.num_senders)
        lower = torch.minimum(partner, torch.arange(edges.num_senders, device=a.device))
        group = lower[group]
        # Pairs between clusters, named by their lowest nodes.
        merged = EdgeList.sort(lower[a], lower[b], edges.num_senders, edges.num_senders)
        a, b, total = symmetric(merged, total[merged.order])
    return group


def number_groups(group: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
    """Groups of each graph numbered from 0 through the batch: each node's ``[N]``, and the graph of
    each group ``[groups]``, ascending.

    Group 0 of one graph and group 0 of another are different groups, so PyG need not renumber
    groups when it batches, and may.
    """
    if not len(group):
        return group, graph
    of_graph, _, parent = unique_pairs(graph, group, int(graph.max()) + 1, int(group.max()) + 1)
    return parent, of_graph


def coarse_edges(
    edges: EdgeList, keep: Tensor, parent: Tensor, num_coarse: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of different groups that a kept edge joins.

    Returns:
        Senders and receivers of the coarse edges ``[C]``, and for each fine edge its coarse edge,
        or -1, ``[E]``.
    """
    senders, receivers = parent[edges.senders], parent[edges.receivers]
    joins = keep & (senders != receivers)
    to, from_, place = unique_pairs(receivers[joins], senders[joins], num_coarse, num_coarse)
    into = torch.full_like(senders, -1)
    into[joins] = place
    return from_, to, into
