"""A student's attention graph is to be its teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.graph import AttentionGraph
from graphformer.graph.keys import pair_keys


def graph_distillation(teacher: AttentionGraph, student: AttentionGraph) -> Tensor:
    r"""``KL(t_i || s_i)`` of the rows of two attention graphs, the mean over the rows in which the
    teacher has an edge:

    .. math:: L_i = \sum_{j \in T_i} t_{ij} \log \frac{t_{ij}}{s_{ij}}
              + r_i \log \frac{r_i}{1 - \sum_{j \in T_i} s_{ij}}, \qquad
              r_i = 1 - \sum_{j \in T_i} t_{ij}

    over the teacher's edges ``T_i``. All senders of a row that the teacher's graph does not hold
    are one outcome, of weight ``r_i``: where nothing was cut this is the divergence of the dense
    rows, and where something was it is a lower bound of it (weights must have kept their softmax
    values).

    Args:
        teacher: any lanes; taken as it is, without a gradient.
        student: the same lanes and nodes, with at least the teacher's edges: give it no sparsifier.

    Returns:
        a scalar, differentiable in the student's weights.

    Raises:
        ValueError: graphs over other lanes or nodes, teacher's edges that the student lacks,
            parallel edges, or rows whose weights sum to more than 1.

    Source: distillation of attention as in EchoAtt, arXiv 2409.14595, and MiniLM, arXiv 2002.10957.
    """
    shapes = [(g.num_lanes, g.num_senders, g.num_receivers) for g in (teacher, student)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"teacher and student must have the same lanes, senders and receivers, got {shapes[0]} "
            f"and {shapes[1]}"
        )
    lanes, senders, receivers = shapes[0]
    sizes = lanes * receivers, lanes * senders
    wanted = pair_keys(teacher.receivers, teacher.senders, *sizes)
    known, order = pair_keys(student.receivers, student.senders, *sizes).sort()
    for name, keys in (("teacher", wanted.sort().values), ("student", known)):
        if bool((keys[1:] == keys[:-1]).any()):
            raise ValueError(f"{name} has parallel edges; rows of weights have one for each pair")
    if not len(wanted):
        raise ValueError("teacher has no edge: there is nothing to distil")
    place = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    found = known[place] == wanted if len(known) else torch.zeros_like(wanted, dtype=torch.bool)
    if not bool(found.all()):
        raise ValueError(
            f"student lacks {int((~found).sum())} of the teacher's {len(wanted)} edges, where its "
            "weight would be 0 and the divergence infinite: make its graph without a sparsifier"
        )
    t = teacher.weight.detach().to(student.weight.dtype)
    s = student.weight[order[place]]
    rows = teacher.receivers
    inside = s.new_zeros(sizes[0]).index_add(0, rows, torch.xlogy(t, t) - torch.xlogy(t, s))
    rest_t = 1 - t.new_zeros(sizes[0]).index_add(0, rows, t)
    rest_s = 1 - s.new_zeros(sizes[0]).index_add(0, rows, s)
    # what rounding leaves of a whole row is no rest
    tiny = 64 * torch.finfo(t.dtype).eps
    if float(rest_t.min()) < -1e3 * tiny:
        raise ValueError(
            f"teacher has rows whose weights sum to {1 - float(rest_t.min()):.4g}, more than 1: "
            "give attention weights of single heads"
        )
    left = rest_t > tiny
    r, q = rest_t[left], rest_s[left].clamp(min=tiny)
    total = inside.index_add(0, left.nonzero().flatten(), r * (r.log() - q.log()))
    some = torch.zeros_like(left).index_fill(0, rows, True)
    return total[some].mean()
