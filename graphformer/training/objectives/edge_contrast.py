"""Contrast along edges: a node is to be like those that influence it, and unlike the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphformer.errors import number, strict_flags, whole
from graphformer.graph import AttentionGraph


def cumulative_influence(graph: AttentionGraph, hops: int = 2) -> AttentionGraph:
    r"""How much of what node i hears in 1 to R steps comes from node j:

    .. math:: \gamma_{ij} = \frac{c_{ij}}{\sum_k c_{ik}}, \qquad
              c = \sum_{r=1}^{R} P^r \text{ without its diagonal}, \qquad
              P_{ij} = \frac{w_{ij}}{\sum_k w_{ik}}

    for all j within R steps; parallel edges add up.

    Args:
        graph: one lane over N nodes, with weights that are not negative.
        hops: R, at least 1.

    Returns:
        one lane over the same nodes; its weights carry no gradient, and each row sums to 1 or is
        empty.

    Raises:
        ValueError: several lanes, sides of different sizes, or a negative weight.

    Source: the positives of SCGC, Kulatilleke et al., arXiv 2204.12656.
    """
    import scipy.sparse

    whole("hops", hops)
    size = one_lane(graph)
    if len(graph.weight) and float(graph.weight.detach().min()) < 0:
        raise ValueError("graph has negative weights, and influence is a share: take its absolutes")
    ends = graph.receivers.cpu().numpy(), graph.senders.cpu().numpy()
    weight = graph.weight.detach().double().cpu().numpy()
    step = _rows(scipy.sparse.csr_array((weight, ends), shape=(size, size)))
    power, total = step, step
    for _ in range(hops - 1):
        power = power @ step
        total = total + power
    total = total.tolil()
    total.setdiag(0)
    total = _rows(total.tocsr())
    total.eliminate_zeros()
    found = total.tocoo()
    device, dtype = graph.weight.device, graph.weight.dtype
    receivers, senders = found.coords
    return AttentionGraph.from_edges(
        torch.from_numpy(senders.astype(np.int64)).to(device),
        torch.from_numpy(receivers.astype(np.int64)).to(device),
        torch.from_numpy(found.data).to(device, dtype),
        num_senders=size,
        num_receivers=size,
    )


@strict_flags
def edge_contrast(
    x: Tensor, positives: AttentionGraph, temperature: float = 0.5, *, unit: bool = True
) -> Tensor:
    r"""InfoNCE whose positives are weighted edges:

    .. math:: L = -\frac1{|M|} \sum_{i \in M} \log
              \frac{\sum_j \gamma_{ij} \, e^{\langle x_i, x_j \rangle / \tau}}
                   {\sum_{k \ne i} e^{\langle x_i, x_k \rangle / \tau}}

    over the nodes M that have a positive. The denominator takes N^2 products.

    Args:
        x: nodes ``[N, D]``.
        positives: one lane over N nodes, :func:`cumulative_influence` say; edges of a node to
            itself would be no contrast and are refused.
        temperature: tau.
        unit: rows of x are made unit vectors.

    Raises:
        ValueError: another number of nodes, no positive at all, a self-loop, a weight that is not
            positive.

    Source: SCGC, arXiv 2204.12656; InfoNCE, arXiv 1807.03748.
    """
    number("temperature", temperature, above=0.0)
    size = one_lane(positives)
    if x.ndim != 2 or len(x) != size:
        raise ValueError(f"x must be [{size}, D], a row a node of positives, got {list(x.shape)}")
    senders, receivers, weight = positives.senders, positives.receivers, positives.weight
    if not len(weight):
        raise ValueError("positives has no edge: there is nothing to contrast")
    if bool((senders == receivers).any()):
        raise ValueError("positives joins a node to itself; take the self-loops out")
    if bool((weight.detach() <= 0).any()):
        raise ValueError("positives has weights that are not positive; leave such edges out")
    x = torch.nn.functional.normalize(x, dim=-1) if unit else x
    scores = x @ x.t() / temperature
    scores = scores.masked_fill(torch.eye(size, dtype=torch.bool, device=x.device), -torch.inf)
    every = scores.logsumexp(1)
    # sums of exponentials below their greatest, row by row
    own = scores[receivers, senders] + weight.log()
    top = own.new_full((size,), -torch.inf).scatter_reduce(0, receivers, own.detach(), "amax")
    total = own.new_zeros(size).index_add(0, receivers, (own - top[receivers]).exp())
    some = total > 0
    return (every[some] - total[some].log() - top[some]).mean()


def one_lane(graph: AttentionGraph) -> int:
    """The number of nodes of a graph of one lane over one set of nodes."""
    if graph.num_lanes != 1 or graph.num_senders != graph.num_receivers:
        raise ValueError(
            f"graph must be one lane over one set of nodes, got {graph.num_lanes} lanes from "
            f"{graph.num_senders} senders to {graph.num_receivers} receivers: take one with "
            ".lane(i), or .merge_heads()"
        )
    return graph.num_senders


def _rows(matrix):  # type: ignore[no-untyped-def]
    """Each row divided by its sum; an empty one stays."""
    import scipy.sparse

    total = np.asarray(matrix.sum(1)).ravel()
    share = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(share) @ matrix)
