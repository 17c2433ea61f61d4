"""How alike the graphs of a model's layers are, and which could share one."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.errors import number
from graphformer.graph import AttentionGraph
from graphformer.inspect.value import ModelGraphs


def similarity(graphs: ModelGraphs) -> Tensor:
    r"""``[layers, layers]``: the cosine of two layers' maps, head by head, then the mean over heads
    and sequences.

    .. math::
        c_{lm} = \frac{1}{B H} \sum_{bh}
        \frac{\sum_{ij} A^l_{bhij} A^m_{bhij}}{\lVert A^l_{bh} \rVert\, \lVert A^m_{bh} \rVert}

    Edges that were cut count as 0, so give ``sparsify=None`` or a low threshold. A head without an
    edge is like none. Layers close to 1 may share a graph (EchoAtt, arXiv 2409.14595, figure 2).

    Raises:
        ValueError: layers of several kinds, or with different numbers of heads or nodes.
    """
    found = [one.detach() for one in graphs]
    kinds = {(one.batch_shape, one.num_senders, one.num_receivers) for one in found}
    if len(kinds) > 1:
        raise ValueError(
            "the layers have graphs of several shapes (lanes, senders, receivers): "
            f"{sorted(kinds)}; choose those of one kind with layers=..."
        )
    norms = torch.stack([_dot(one, one) for one in found]).sqrt()  # [layers, lanes]
    out = torch.eye(len(found), dtype=norms.dtype, device=norms.device)
    for first in range(len(found)):
        for second in range(first + 1, len(found)):
            both = norms[first] * norms[second]
            safe = torch.where(both > 0, both, torch.ones_like(both))
            out[first, second] = (_dot(found[first], found[second]) / safe).mean()
            out[second, first] = out[first, second]
    return out


def _dot(first: AttentionGraph, second: AttentionGraph) -> Tensor:
    """``[lanes]``: the sum of the products of weights on common edges."""
    width = max(first.num_senders, 1)
    keys, others = (one.receivers * width + one.senders % width for one in (first, second))
    order = torch.argsort(others)
    place = torch.searchsorted(others[order], keys).clamp(max=max(len(others) - 1, 0))
    out = first.weight.new_zeros(first.num_lanes)
    if not (len(keys) and len(others)):
        return out
    partner = order[place]
    common = torch.where(others[partner] == keys, first.weight * second.weight[partner], 0.0)
    return out.index_add(0, first.sender_lane, common)


def shareable_layers(graphs: ModelGraphs, least: float = 0.9) -> list[tuple[int, ...]]:
    """Runs of consecutive layers whose graphs are all at least so alike to the first of the run:
    there the later ones may take the first's (``score="echo"``).

    Args:
        least: a cosine of :func:`similarity`.

    Returns:
        Runs of two or more places in ``graphs``, in their order.
    """
    number("least", least, least=-1.0, most=1.0)
    alike, runs, start = similarity(graphs), [], 0
    for place in range(1, len(alike) + 1):
        if place == len(alike) or float(alike[start, place]) < least:
            if place - start > 1:
                runs.append(tuple(range(start, place)))
            start = place
    return runs
