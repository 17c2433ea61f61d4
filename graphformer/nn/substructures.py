r"""Random walks in a part of the graph, and between the two nodes of a pair: what message passing
on the whole graph cannot count.

Both are made in double precision: the same graph with its nodes in another order has the same
numbers but for the last bits of a float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.nn.edge_list import EdgeList
from graphformer.nn.pairs import Structure, hops, ranges, refuse_too_many

BLOCK = 2**22
"""Numbers of the largest dense block that is worked on at once, which are 32 MB."""


def shell_walk(structure: Structure, most: int, steps: int) -> Tensor:
    r"""Walks among the nodes that are exactly r steps away: ``[N, most * 2 * steps]``.

    The shell :math:`S_r(i)` of a node holds the nodes at distance r, :math:`r = 1, ...,` ``most``,
    and the edges between them; edges are taken both ways and once, self-loops are left out. With
    :math:`p_k(j)` the probability of a random walk in the shell to be back at :math:`j \in S_r(i)`
    after k steps (0 where j has no neighbour there), the numbers of a shell are

    .. math::
        \log(1 + |S|), \quad \log(1 + \mathrm{mean}_j d_j), \quad
        \mathrm{mean}_j\, p_k(j), \quad \mathrm{std}_j\, p_k(j)
        \qquad (k = 2, ..., \mathrm{steps})

    For r = 1 these count triangles (k = 2), 4-cliques (k = 3) and longer cycles among a node's
    neighbours. Regular graphs that no number of rounds of message passing tells apart often differ
    in them. The idea of rooted subgraphs is that of arXiv 2110.13197 and of peripheral subgraphs
    that of arXiv 2205.13328; walks in place of a network in every subgraph keep it a fixed
    encoding.
    """
    nodes, spec = structure.num_nodes, f"shell_walk:{most}:{steps}"
    senders, receivers = structure.senders, structure.receivers
    keys, distance = hops(
        torch.cat((senders, receivers)), torch.cat((receivers, senders)), nodes, most, spec
    )
    near = keys[distance == 1]
    neighbour, degree = (
        near % max(nodes, 1),
        torch.bincount(torch.div(near, max(nodes, 1), rounding_mode="floor"), minlength=nodes),
    )
    start = torch.cumsum(degree, 0) - degree
    out = torch.zeros(nodes, most, 2 * steps, dtype=torch.float64, device=keys.device)
    for r in range(1, most + 1):
        shell = keys[distance == r]
        if not len(shell):
            break
        root, member = torch.div(shell, nodes, rounding_mode="floor"), shell % nodes
        count = degree[member]
        refuse_too_many(int(count.sum()), spec)
        # The edges of a shell: of each member, the neighbours that are members too. Rows and
        # columns are places in the list of all shells.
        row = torch.arange(len(shell), device=keys.device).repeat_interleave(count)
        wanted = (
            root[row] * nodes + neighbour[start[member].repeat_interleave(count) + ranges(count)]
        )
        column = torch.searchsorted(shell, wanted).clamp(max=len(shell) - 1)
        inside = shell[column] == wanted
        out[:, r - 1] = _describe(root, row[inside], column[inside], nodes, steps)
    return out.flatten(1).float()


def _describe(root: Tensor, row: Tensor, column: Tensor, nodes: int, steps: int) -> Tensor:
    """``[nodes, 2 * steps]`` of one distance. ``root``: whose shell each member is in, ascending;
    ``row, column``: edges by member.
    """
    size = torch.bincount(root, minlength=nodes)
    place = ranges(size)  # of a member in its shell
    degree = torch.bincount(row, minlength=len(root)).double()
    out = torch.zeros(nodes, 2 * steps, dtype=torch.float64, device=root.device)
    out[:, 0] = size.double().log1p()
    out[:, 1] = (out[:, 1].index_add(0, root, degree) / size.clamp(min=1)).log1p()
    # D^-1/2 A D^-1/2 has the diagonal powers of D^-1 A, and is symmetric
    weight = (degree[row] * degree[column]).rsqrt()
    of_edge = root[row]
    has_edges = torch.bincount(of_edge, minlength=nodes) > 0
    width = (size + 3) // 4 * 4  # shells of nearly one size make one block, with little to fill up
    for side in torch.unique(width[has_edges]).tolist():
        for roots in (
            ((width == side) & has_edges).nonzero().squeeze(1).split(max(1, BLOCK // side**2))
        ):
            slot = size.new_full((nodes,), -1)
            slot[roots] = torch.arange(len(roots), device=root.device)
            use = slot[of_edge] >= 0
            block = torch.zeros(len(roots), side, side, dtype=torch.float64, device=root.device)
            block[slot[of_edge[use]], place[row[use]], place[column[use]]] = weight[use]
            back = _returns(block, steps)
            real = torch.arange(side, device=root.device) < size[roots].unsqueeze(-1)
            number = size[roots].double().unsqueeze(-1)
            mean = back.sum(1) / number
            spread = (
                ((back - mean.unsqueeze(1)).square() * real.unsqueeze(-1)).sum(1) / number
            ).sqrt()
            out[roots, 2:] = torch.cat((mean, spread), -1)
    return out


def _returns(walk: Tensor, steps: int) -> Tensor:
    """Diagonals of the powers 2, ..., ``steps`` of symmetric matrices ``[B, n, n]``:
    ``[B, n, steps - 1]``.

    Of symmetric X: diag(X^2k) holds the sums of the rows of X^k * X^k, diag(X^(2k + 1)) those of
    X^k * X^(k + 1). Half the products do.
    """
    power, found = walk, [walk.square().sum(-1)]
    while len(found) < steps - 1:
        following = power @ walk
        found.append((power * following).sum(-1))
        found.append(following.square().sum(-1))
        power = following
    return torch.stack(found[: steps - 1], -1)


def relative_walk(structure: Structure, edges: EdgeList, steps: int) -> Tensor:
    r"""Of a pair :math:`(j \to i)` the probabilities :math:`(M^k)_{ji}` of a random walk from the
    sender j to be at the receiver i after k = 1, ..., ``steps`` steps along given edges,
    :math:`M = D^{-1} A`: ``[E, steps]`` (arXiv 2305.17589).

    A node without outgoing edges ends the walk. Of a pair in two graphs it is 0. One dense matrix a
    graph.
    """
    out = torch.zeros(edges.num_edges, steps, dtype=torch.float64, device=edges.senders.device)
    # candidates are sorted by receiver
    bounds = torch.searchsorted(edges.receivers, torch.cumsum(structure.sizes, 0)).tolist()
    begin = 0
    for (first, size, senders, receivers), end in zip(structure.each(), bounds, strict=True):
        if end > begin:
            refuse_too_many(size * size, f"relative_walk:{steps}")
            adjacency = torch.zeros(size, size, dtype=torch.float64, device=out.device)
            adjacency.index_put_((senders, receivers), adjacency.new_ones(()), accumulate=True)
            step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
            j, i = edges.senders[begin:end] - first, edges.receivers[begin:end] - first
            power = step
            for k in range(steps):
                power = power @ step if k else step
                out[begin:end, k] = power[j, i]
        begin = end
    return out.float()
