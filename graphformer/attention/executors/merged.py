"""Graphs read off in the pass that computes the attention output, one a sequence (heads merged) or
one a head. For frozen models.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from graphformer.attention.build import refined
from graphformer.attention.candidates import Rule
from graphformer.attention.executors import blocks, stream
from graphformer.attention.pairs import Block
from graphformer.attention.problem import Problem, pose
from graphformer.attention.scores import ScaledDotProduct
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import number, strict_flags
from graphformer.graph import AttentionGraph


@strict_flags
@torch.compiler.disable  # how many edges there are is in the data
def merged_graph(
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    sparsify: Sparsifier,
    reduce: str | None = "sum",
    clamp: float | None = 1.0,
    candidates: Rule | str | None = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    sharpening: Tensor | float = 1.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[AttentionGraph, Tensor | None]:
    r"""The merged graph of all heads, and the attention output, in one pass over blocks of rows.

    .. math::
        a_{ij} = \min\Big(\mathrm{reduce}_h\, \mathrm{softmax}(s_{hi\cdot})_j,\ \mathrm{clamp}\Big),
        \qquad
        E = \{(j \to i) : \mathrm{sparsify}(a_{i\cdot})_j\}

    The cut comes after merging: unlike ``attention_graph(..., sparsify).merge_heads()``, an edge
    may live on many small weights.

    Args:
        q, k: ``[B, H, Nq, d]`` and ``[B, Hkv, Nk, d]``, as in :func:`graphformer.attention_graph`.
        v: values ``[B, Hkv, Nk, D]``; leave out where only the graph is wanted.
        sparsify: on the merged weights; ``gf.Threshold(0.2)`` is the paper's, ``Reweigh("sigmoid",
            0.1, beta=10.0, above=0.6)`` its code's.
        reduce: over heads: ``"sum"``, ``"mean"`` or ``"max"``; ``None`` keeps them apart, each cut
            for itself.
        clamp: largest merged weight; ``None`` for none.
        softcap: scores become ``softcap * tanh(s / softcap)`` (arXiv 2408.00118, Gemma 2).
        sinks: ``[H]``, one more logit in each row of a head, whose weight goes nowhere: rows then
            sum to less than 1 (gpt-oss).
        bias: finite, ``[1 or B, 1 or H, Nq, Nk]``, added to the scores after their scale and soft
            cap (T5's relative positions). It is read block by block and never repeated over
            sequences or heads.

    Returns:
        The graph with lanes ``(B,)``, or ``(B, H)`` where heads are kept apart, and
        ``[B, H, Nq, D]`` (or ``None``). Neither passes a gradient to q, k and v. What a trained
        sparsifier makes of the weights has a gradient to its parameters.

    Source: arXiv 2501.02393, section 2.3.
    """
    if reduce not in ("sum", "mean", "max", None):
        raise ValueError(
            f"unknown reduce {reduce!r}; known: sum, mean, max, None (heads stay apart)"
        )
    if softcap is not None and not (softcap > 0 and math.isfinite(softcap)):
        raise ValueError(f"softcap must be a positive number, got {softcap}")
    if clamp is not None:
        number("clamp", clamp, above=0.0)
    score = ScaledDotProduct(scale, sharpening)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        problem = pose(
            q,
            k,
            candidates=candidates,
            attention_mask=attention_mask,
            is_causal=is_causal,
            score=score,
            normalize="softmax",
            sparsify=sparsify,
        )
        if problem.edges is not None:
            raise TypeError(
                "merged_graph takes rules, not explicit Edges; build the graph with "
                "attention_graph and merge its heads"
            )
        problem.require_finite(cuts=True)
        if v is not None and (v.shape[:3] != k.shape[:3] or v.ndim != 4):
            raise ValueError(
                f"v must be [batch, key heads, keys, D] like k {tuple(k.shape)}, got shape "
                f"{tuple(v.shape)}"
            )
        if sinks is not None:
            sinks = _checked(sinks, problem)
        if bias is not None:
            bias = _checked_bias(bias, problem)
        graph, out = _walk(problem, v, reduce, clamp, softcap, sinks, bias)
    # Scores decide which edges exist, and their weights go on in the scores' precision: autocast
    # has no say in either.
    with torch.autocast(q.device.type, enabled=False):
        graph = refined(sparsify, graph, q.shape[1] if reduce is None else 1)
        return graph, None if out is None or v is None else out.to(v.dtype)


def _walk(
    problem: Problem,
    v: Tensor | None,
    reduce: str | None,
    clamp: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    bias: Tensor | None,
) -> tuple[AttentionGraph, Tensor | None]:
    """The kept edges, with their merged weights, and the output."""
    batch, heads, num_receivers, num_senders = problem.sizes
    together = 1 if reduce is None else heads  # lanes that make one graph
    room, total, parts = blocks.Room(problem), blocks.Room(problem), []
    queries, keys = problem.q.contiguous(), problem.k.contiguous()
    values = None if v is None else v.to(queries.dtype).contiguous()
    out = (
        None if values is None else queries.new_zeros(batch, heads, num_receivers, values.shape[-1])
    )
    for block in blocks.walk(problem, together):
        # all heads at once, or one after the other into the same sum
        pieces = block.within(blocks.block_elements(num_senders))
        mask = blocks.mask_of(problem, block, room)
        for i, piece in enumerate(pieces):
            own = mask if len(pieces) == 1 else mask.of_lane(i)
            # The first head's weights are where the others are added to.
            weights = blocks.softmax_weights(
                problem,
                queries,
                keys,
                piece,
                room if i else total,
                own,
                softcap=softcap,
                sinks=sinks,
                bias=bias,
            )
            if out is not None and values is not None:
                torch.bmm(
                    weights,
                    blocks.lane_keys(values, piece, heads),
                    out=blocks.lane_queries(out, piece),
                )
            if i == 0:
                merged = weights
            elif reduce == "max":
                torch.maximum(merged, weights, out=merged)
            else:
                merged += weights
        if len(pieces) == 1 and together > 1:
            per_head = merged.unflatten(0, (-1, together))
            merged = per_head.amax(1) if reduce == "max" else per_head.sum(1)
        if reduce == "mean":
            merged.div_(together)
        if clamp is not None:
            merged.clamp_(max=clamp)

        def merged_pairs(block: blocks.Stretch = block) -> Block:
            pairs = blocks.pairs_of(problem, block)
            if reduce is None:
                return pairs
            return replace(pairs, head=pairs.head[:1], allowed=pairs.allowed.any(1, keepdim=True))

        index = blocks.hits(stream.kept(problem, merged, room, merged_pairs))
        parts.append(
            (
                *stream.ends(problem, block.lanes.start // together, block, index),
                merged.flatten()[index],
            )
        )
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64, device=queries.device)
        parts = [(nothing, nothing, queries.new_zeros(0))]
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    lanes = (batch,) if reduce is not None else (batch, heads)
    sizes = num_senders, num_receivers
    return AttentionGraph.of_sorted((senders, receivers), weight, sizes, lanes), out


def _checked(sinks: Tensor, problem: Problem) -> Tensor:
    """Sinks in the scores' precision."""
    heads = problem.sizes[1]
    if sinks.shape != (heads,) or not sinks.is_floating_point() or sinks.device != problem.q.device:
        raise ValueError(
            f"sinks must be floating point of shape ({heads},), one a query head, on "
            f"{problem.q.device}; got {sinks.dtype} of shape {tuple(sinks.shape)} on {sinks.device}"
        )
    if bool(sinks.isnan().any()):
        raise ValueError(f"sinks hold {int(sinks.isnan().sum())} NaN")
    return sinks.detach().to(problem.q.dtype)


def _checked_bias(bias: Tensor, problem: Problem) -> Tensor:
    """A bias that fits, and that turns no score into NaN: such a score would drop its edges without
    a word.
    """
    batch, heads, num_receivers, num_senders = problem.sizes
    fits = (
        bias.ndim == 4
        and bias.shape[0] in (1, batch)
        and bias.shape[1] in (1, heads)
        and bias.shape[2:] == (num_receivers, num_senders)
    )
    if not fits or not bias.is_floating_point() or bias.device != problem.q.device:
        raise ValueError(
            f"bias must be floating point of shape [1 or {batch}, 1 or {heads}, {num_receivers}, "
            f"{num_senders}] on {problem.q.device}; got {bias.dtype} of shape {tuple(bias.shape)} "
            f"on {bias.device}"
        )
    if bias.numel():
        lowest, highest = (float(value) for value in bias.aminmax())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ValueError(
                f"bias must be finite, and holds {int((~bias.isfinite()).sum())} NaN or infinite "
                "values: say what is forbidden with attention_mask"
            )
    return bias.detach()
