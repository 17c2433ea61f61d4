"""One graph a sequence, its heads merged, read off in the pass that computes the attention output. For frozen models: no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.attention import blocks, stream
from graphformer.attention.candidates import Rule
from graphformer.attention.problem import pose
from graphformer.attention.scores import ScaledDotProduct
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.graph import AttentionGraph


@torch.compiler.disable  # how many edges there are is in the data
@torch.no_grad()
def merged_graph(
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    sparsify: Sparsifier,
    reduce: str = "sum",
    clamp: float | None = 1.0,
    candidates: Rule | str | None = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    sharpening: Tensor | float = 1.0,
) -> tuple[AttentionGraph, Tensor | None]:
    r"""The merged graph of all heads, and the attention output, in one pass over blocks of rows.

    .. math::
        a_{ij} = \min\Big(\mathrm{reduce}_h\, \mathrm{softmax}(s_{hi\cdot})_j,\ \mathrm{clamp}\Big), \qquad
        E = \{(j \to i) : \mathrm{sparsify}(a_{i\cdot})_j\}

    The cut comes after merging: unlike ``attention_graph(..., sparsify).merge_heads()``, an edge may live on many small weights.

    Args:
        q, k: ``[B, H, Nq, d]`` and ``[B, Hkv, Nk, d]``, as in :func:`graphformer.attention_graph`.
        v: values ``[B, Hkv, Nk, D]``; leave out where only the graph is wanted.
        sparsify: on the merged weights; ``gf.Threshold(0.2)`` is the paper's.
        reduce: over heads: ``"sum"``, ``"mean"`` or ``"max"``.
        clamp: largest merged weight; ``None`` for none.

    Returns:
        The graph with lanes ``(B,)``, detached, and ``[B, H, Nq, D]`` (or ``None``).

    Source: arXiv 2501.02393, section 2.3.
    """
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f"unknown reduce {reduce!r}; known: sum, mean, max")
    score = ScaledDotProduct(scale, sharpening)
    problem = pose(
        q, k, candidates=candidates, attention_mask=attention_mask, is_causal=is_causal, score=score, normalize="softmax", sparsify=sparsify
    )
    if problem.edges is not None:
        raise TypeError("merged_graph takes rules, not explicit Edges; build the graph with attention_graph and merge its heads")
    problem.require_finite()
    batch, heads, num_receivers, num_senders = problem.sizes
    if v is not None and (v.shape[:3] != k.shape[:3] or v.ndim != 4):
        raise ValueError(f"v must be [batch, key heads, keys, D] like k {tuple(k.shape)}, got shape {tuple(v.shape)}")
    out = None if v is None else problem.q.new_zeros(batch, heads, num_receivers, v.shape[-1])
    room, total, parts = blocks.Room(problem), blocks.Room(problem), []
    with torch.autocast(q.device.type, enabled=False):
        queries, keys = problem.q.contiguous(), problem.k.contiguous()
        values = None if v is None else v.to(queries.dtype).contiguous()
        for block in blocks.walk(problem, heads):
            pieces = block.within(blocks.block_elements(num_senders))  # all heads at once, or one after the other into the same sum
            mask = blocks.mask_of(problem, block, room)
            for i, piece in enumerate(pieces):
                own = mask if len(pieces) == 1 else mask.of_lane(i)
                # The first head's weights are where the others are added to.
                weights = blocks.softmax_weights(problem, queries, keys, piece, room if i else total, own)
                if out is not None and values is not None:
                    torch.bmm(weights, blocks.lane_keys(values, piece, heads), out=blocks.lane_queries(out, piece))
                if i == 0:
                    merged = weights
                elif reduce == "max":
                    torch.maximum(merged, weights, out=merged)
                else:
                    merged += weights
            if len(pieces) == 1 and heads > 1:
                per_head = merged.unflatten(0, (-1, heads))
                merged = per_head.amax(1) if reduce == "max" else per_head.sum(1)
            if reduce == "mean":
                merged.div_(heads)
            if clamp is not None:
                merged.clamp_(max=clamp)

            def any_head(block: blocks.Block = block) -> Tensor:
                return blocks.allowed(problem, block).unflatten(0, (-1, heads)).any(1)

            index = blocks.hits(stream.kept(problem, merged, room, any_head))
            parts.append((*stream.ends(problem, block.lanes.start // heads, block, index), merged.flatten()[index]))
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64, device=q.device)
        parts = [(nothing, nothing, problem.q.new_zeros(0))]
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    graph = AttentionGraph(senders, receivers, weight, batch, num_senders, num_receivers, (batch,))
    if sparsify.renormalize:
        graph = graph.renormalize()
    return graph, None if out is None or v is None else out.to(v.dtype)
