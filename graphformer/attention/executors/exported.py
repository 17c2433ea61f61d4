"""Edges in an exported program (``torch.export``, ONNX): the slots on the whole matrix of scores.

How many edges there are is in the data, and an exported program has no operator of ours that could
hide it. So what is cut becomes weight 0 in a matrix whose shape is known: the formulas of
:mod:`graphformer.attention.executors.dense`, with ``N x N`` memory, whichever executor builds the
edges of the eager layer: executors never change the answer.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.executors import dense
from graphformer.attention.problem import Problem


def over_pairs(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], dropout: float
) -> dict[str, Tensor]:
    """The reductions of ``x`` ``[B, H, Nk, D]``, each ``[B, H, Nq, D]``; degrees ``[B, H, Nq, 1]``.

    Raises:
        ValueError: candidates are an edge list.
    """
    if problem.edges is not None:
        raise ValueError(
            "a layer with explicit candidate edges cannot be exported: export it with a rule, such "
            "as Window(64), or the layer on edges (GINAttentionConv), which takes edges as an input"
        )
    pairs = problem.pairs()
    # Keys of a group stand for themselves here: folding heads into rows would bound the length.
    groups = problem.sizes[1] // problem.k.shape[1]
    k = problem.k if groups == 1 else problem.k.repeat_interleave(groups, dim=1)
    weights = problem.weights(pairs, problem.q, k)
    keep = pairs.allowed.expand(weights.shape)
    sparsify, pairs = problem.sparsify, problem.rule.placed(pairs)
    while sparsify is not None:
        keep = keep & sparsify.keep(weights.detach(), pairs)
        pairs = replace(pairs, allowed=keep)
        weights = pairs.only(sparsify.refine(pairs.only(weights), pairs))
        sparsify = sparsify.then
    dropped = F.dropout(weights, dropout) if dropout else weights
    values = x.to(weights.dtype)
    reduced: dict[str, Tensor] = {}
    for name in reductions:
        if name.partition("@")[0] == "degree":
            bound = name.partition("@")[2]
            counted = keep & (weights > float(bound)) if bound else keep
            reduced[name] = counted.sum(-1, keepdim=True).to(x.dtype)
        else:
            reduced[name] = dense.reduce(dropped, keep, values, name).to(x.dtype)
    return reduced
