"""attention_graph: from queries and keys to the graph of every head."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.attention.candidates import Edges, Rule
from graphformer.attention.executors import blocks, dense, edges, stream
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import Problem, pose
from graphformer.attention.scores import Score, choose_score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import strict_flags
from graphformer.graph import AttentionGraph

EXECUTORS = {"dense": dense.build, "stream": stream.build, "edges": edges.build}
EDGELESS = ("flash", "linear")
"""Those that build no edges (:mod:`graphformer.attention.attend` runs them)."""
KNOWN = ("auto", *EDGELESS, *EXECUTORS)


@strict_flags
def attention_graph(
    q: Tensor,
    k: Tensor,
    *,
    candidates: Rule | Edges | AttentionGraph | str | None = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    sharpening: Tensor | float = 1.0,
    score: Score | None = None,
    normalize: str | Normalizer = "softmax",
    sparsify: Sparsifier | None = None,
    executor: str = "auto",
) -> AttentionGraph:
    r"""The graph of every attention head: one lane for each head of each sequence.

    .. math::
        s_{ij} = \alpha \langle q_i, k_j \rangle / \sqrt{d}, \qquad
        w_{i\cdot} = \mathrm{normalize}(s_{i\cdot}), \qquad
        E = \{(j \to i) : \mathrm{sparsify}(w_{i\cdot})_j\}

    An edge runs from sender ``j`` (key) to receiver ``i`` (query). A weight keeps its normalized
    value when other edges are dropped. ``weight`` is differentiable in q, k and the sharpening.
    Half precision is scored in float32, and the weights are float32.

    Args:
        q: queries ``[B, H, Nq, d]``.
        k: keys ``[B, Hkv, Nk, d]``; ``H`` is a multiple of ``Hkv`` (grouped queries).
        candidates: which pairs may be scored: ``None`` or ``"all"``, ``"causal"``, a
            :class:`~graphformer.attention.candidates.Rule` such as ``Causal() & Window(64)``,
            explicit :class:`~graphformer.attention.candidates.Edges`, or an :class:`AttentionGraph`
            whose edges are taken.
        attention_mask: true or 1 where a pair may be attended to, ``[B, Nk]`` (padding) or
            ``[B, 1, Nq, Nk]``.
        is_causal: senders at or before the receiver. With ``Nq < Nk`` (a cache) the last query sees
            the last key.
        scale: factor of the dot product, ``1 / sqrt(d)`` unless given.
        sharpening: the factor alpha, a number or a tensor that broadcasts to ``[B, H, Nq, 1]``;
            applied before the mask.
        score: another :class:`~graphformer.attention.scores.Score` than the scaled dot product; it
            brings its own scale and sharpening.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"``, or a normalizer.
        sparsify: ``None`` keeps every candidate; ``gf.Threshold(tau)``, ``gf.TopK(k)``.
        executor: ``"dense"`` (whole matrix), ``"stream"`` (blocks of rows, no N x N matrix),
            ``"edges"`` (explicit candidates), or ``"auto"``: edges where candidates are explicit,
            dense where one block holds everything, else stream. Never changes the answer.

    Raises:
        ValueError: shapes, mask or candidates do not fit, an unknown name, or scores that are NaN
            or infinite.
        TypeError: an argument of the wrong kind.

    Source: arXiv 2501.02393, section 2.1.
    """
    problem = pose(
        q,
        k,
        candidates=candidates,
        attention_mask=attention_mask,
        is_causal=is_causal,
        score=choose_score(score, scale, sharpening),
        normalize=normalize,
        sparsify=sparsify,
    )
    return build(problem.simplest(executor, zeros_count=True), executor)


# how many edges there are is in the data, so torch.compile does not look inside
@torch.compiler.disable
def build(problem: Problem, executor: str = "auto") -> AttentionGraph:
    """Run the chosen executor on a checked problem."""
    name = choose(problem) if executor == "auto" else executor
    if name in EDGELESS:
        raise ValueError(
            f"executor={name!r} builds no edges, so it cannot return a graph; use 'stream', "
            "'dense', 'edges' or 'auto'"
        )
    if name not in EXECUTORS:
        raise ValueError(f"unknown executor {name!r}; known: {', '.join(KNOWN)}")
    if (name == "edges") != (problem.edges is not None):
        raise ValueError(
            f"executor={name!r} does not fit these candidates: 'edges' is for explicit candidate "
            "edges (Edges or an AttentionGraph), 'dense' and 'stream' are for rules"
        )
    problem.require_finite(cuts=True)
    # Scores decide which edges exist: autocast would take the decision in half precision.
    with torch.autocast(problem.q.device.type, enabled=False):
        graph = EXECUTORS[name](problem)
        # a list of edges has been through the whole of it
        if name == "edges":
            return graph
        return refined(problem.sparsify, graph, problem.sizes[1], problem.rule)


def refined(
    sparsify: Sparsifier | None, graph: AttentionGraph, heads: int, rule: Rule | None = None
) -> AttentionGraph:
    """What a sparsifier makes of the weights of the edges that it kept; lanes ``(B, heads)``, or
    ``(heads,)``. The rule says where senders stand that are not all tokens.
    """
    if sparsify is None or not (sparsify.renormalize or sparsify.reweighs):
        return graph
    pairs = Listed.of(graph, heads)
    pairs = pairs if rule is None else rule.placed(pairs)
    pairs, weight = edges.refined(sparsify, pairs, graph.weight)
    return graph.with_weight(weight) if pairs.numbers is None else pairs.graph.with_weight(weight)


def choose(problem: Problem) -> str:
    """The executor that ``"auto"`` stands for."""
    if problem.edges is not None:
        return "edges"
    batch, heads, num_receivers, num_senders = problem.sizes
    return (
        "dense"
        if batch * heads * num_receivers * num_senders <= blocks.BLOCK_ELEMENTS
        else "stream"
    )
