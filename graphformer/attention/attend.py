"""attend: what an attention layer calls. Reductions over each receiver's senders, by whichever
executor fits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer import backends, finite
from graphformer.attention.build import EDGELESS, build, choose
from graphformer.attention.candidates import Edges, Rule
from graphformer.attention.executors import flash, linear
from graphformer.attention.executors.plans import Plan, witness
from graphformer.attention.executors.running import RunningSums
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.problem import Problem, pose
from graphformer.attention.scores import Score, choose_score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.watching import tell, watched
from graphformer.errors import number, strict_flags
from graphformer.graph import AttentionGraph
from graphformer.uncompiled import exporting


def plan(
    problem: Problem,
    reductions: tuple[str, ...],
    *,
    executor: str,
    backend: str,
    output_graph: bool,
    dropout: float = 0.0,
    past: RunningSums | None = None,
) -> Plan:
    """The rule behind ``"auto"``, in one place.

    Flash or linear, where nothing needs an edge: weights of a softmax or of none, nothing cut, sums
    (or means) only, no backend named and no graph asked for. Otherwise edges are built (see
    :func:`graphformer.attention.build.choose`) and the backend, torch by default, aggregates them.
    """
    chosen, obstacle = _planned(problem, reductions, executor, backend, output_graph, dropout, past)
    return chosen if past is None else past.settle(chosen, obstacle)


def _planned(
    problem: Problem,
    reductions: tuple[str, ...],
    executor: str,
    backend: str,
    output_graph: bool,
    dropout: float,
    past: RunningSums | None,
) -> tuple[Plan, str | None]:
    """The plan, and why the linear executor cannot run, where that is so."""
    obstacle: str | None = None
    unlinear: str | None = None
    for name in reversed(EDGELESS):  # a scan takes less time than flash, where both can run
        if name == "flash":
            why = flash.obstacle(problem, reductions)
        else:
            why = linear.obstacle(problem, reductions, dropout, past)
        if why is None and backend != "auto":
            why = f"backend={backend!r} was named, and a backend aggregates edges"
        if why is None and output_graph:
            why = "the graph itself was asked for"
        if why is None and executor in ("auto", name):
            sums = "the operator needs only weighted sums, so no edges are built"
            return Plan(name, "auto", sums), unlinear
        if executor == name:
            raise ValueError(
                f"executor={name!r} builds no edges and cannot be used here: {why}; "
                "executor='auto' chooses one that can"
            )
        if name == "flash":  # the reason that is told: plain attention is what one expects
            obstacle = why
        else:
            unlinear = why or f"executor={executor!r} was named"
    if exporting():  # a choice by the number of scores would be a bound on the length
        if backend not in ("auto", "torch"):
            raise ValueError(
                f"backend={backend!r} cannot be exported: make the layer with backend='auto' or "
                "'torch'"
            )
        return Plan("dense", "torch", "an exported program needs known shapes"), unlinear
    chosen = choose(problem) if executor == "auto" else executor
    told = obstacle or f"executor={executor!r} was named"
    return Plan(chosen, "torch" if backend == "auto" else backend, told), unlinear


@strict_flags
def attend(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    reductions: tuple[str, ...] = ("sum",),
    *,
    candidates: Rule | Edges | AttentionGraph | str | None = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    sharpening: Tensor | float = 1.0,
    score: Score | None = None,
    normalize: str | Normalizer = "softmax",
    sparsify: Sparsifier | None = None,
    dropout: float = 0.0,
    executor: str = "auto",
    backend: str = "auto",
    output_graph: bool = False,
    training: bool = False,
    past: RunningSums | None = None,
) -> tuple[dict[str, Tensor], AttentionGraph | None]:
    """Each named reduction of the senders' features at every receiver.

    Args:
        q, k: queries ``[B, H, Nq, d]`` and keys ``[B, Hkv, Nk, d]``.
        x: sender features ``[B, H, Nk, D]``, or ``[B, Hkv, Nk, D]`` shared by a group of heads.
        reductions: names of :func:`graphformer.aggregate`, or ``"degree"``, the number of edges
            into each receiver, ``[B, H, Nq, 1]``; ``"degree@0.2"`` counts those of weight above
            0.2.
        dropout: probability with which a weight is set to 0 (the others are divided by
            ``1 - dropout``). Give 0 outside training.
        output_graph: return the graph too. Its weights are those before dropout.
        past: sums over the senders of earlier calls. Where it holds some, or where the linear
            executor runs and nothing speaks against it, q, k and x are those of the new tokens
            alone, which are added to it; otherwise it says why keys are to be kept.

    The other arguments are those of :func:`graphformer.attention_graph`.

    ``torch.compile`` takes this into its graph, the edges as one operator
    (:mod:`graphformer.attention.executors.compiled`), whose backward pass builds them again. The
    graph breaks with ``output_graph=True`` (how many edges there are is in the data), and where a
    score other than the dot product or a trainable sparsifier needs edges.

    Returns:
        The reductions ``[B, H, Nq, D]`` by name, in x's precision, and the graph or ``None``.
    """
    # there a number of the layer may be a symbol, and the layer has checked it
    if not torch.compiler.is_compiling():
        number("dropout", dropout, least=0.0, most=1.0)
    if past is not None and not torch.compiler.is_compiling() and watched():
        past.need_keys("who watches the layers reads them")
    problem = pose(
        q,
        k,
        candidates=candidates,
        attention_mask=attention_mask,
        is_causal=is_causal,
        score=choose_score(score, scale, sharpening),
        normalize=normalize,
        sparsify=sparsify,
        training=training,
    )
    asked = problem
    zeros_count = output_graph or not {"sum", "mean"}.issuperset(reductions)
    problem = problem.simplest(executor, zeros_count)
    chosen = plan(
        problem,
        reductions,
        executor=executor,
        backend=backend,
        output_graph=output_graph,
        dropout=dropout,
        past=past,
    )
    if not torch.compiler.is_compiling():
        witness(chosen)
        tell(asked, x)
    heads, x_heads = problem.sizes[1], x.shape[1]
    if (
        x.ndim != 4
        or x.shape[0] != q.shape[0]
        or x.shape[2] != k.shape[2]
        or x_heads == 0
        or heads % x_heads
    ):
        raise ValueError(
            f"x must be [batch, heads, keys, D] with {q.shape[0]} sequences, {k.shape[2]} keys and "
            f"{heads} heads or a divisor of them, got shape {tuple(x.shape)}"
        )
    if x_heads != heads:
        x = x.repeat_interleave(heads // x_heads, dim=1)
    finite.require_finite(
        x, "the features x hold", "look for a diverged training step or uninitialised memory"
    )
    if chosen.executor == "flash":
        problem.require_finite()
        out = flash.weighted_sum(problem, q, k, x, dropout)
        return dict.fromkeys(reductions, out), None
    if chosen.executor == "linear":
        problem.require_finite()
        sums = past if past is not None and past.why is None else None
        return dict.fromkeys(reductions, linear.weighted_sum(problem, x, sums)), None
    if exporting() and not output_graph:
        from graphformer.attention.executors import exported

        return exported.over_pairs(problem, x, reductions, dropout), None
    if torch.compiler.is_compiling() and not output_graph:
        from graphformer.attention.executors import compiled

        return compiled.over_edges(problem, x, reductions, chosen, dropout), None
    reduced, graph = over_edges(problem, x, reductions, chosen, dropout)
    return reduced, graph if output_graph else None


@torch.compiler.disable  # as build is
def over_edges(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], chosen: Plan, dropout: float
) -> tuple[dict[str, Tensor], AttentionGraph]:
    """The reductions of ``x`` ``[B, H, Nk, D]`` by the chosen backend, on the graph that the chosen
    executor builds.
    """
    graph = build(problem, chosen.executor)
    return reduce(graph, dropped(graph, dropout), x, reductions, chosen.backend), graph


def dropped(graph: AttentionGraph, dropout: float) -> AttentionGraph:
    """The graph with its weights after dropout."""
    return graph.with_weight(F.dropout(graph.weight, dropout)) if dropout else graph


def reduce(
    graph: AttentionGraph,
    weighted: AttentionGraph,
    x: Tensor,
    reductions: tuple[str, ...],
    backend: str,
) -> dict[str, Tensor]:
    """The reductions of ``x`` ``[*lanes, N, D]`` by name.

    Args:
        graph: the heads' edges, which degrees count.
        weighted: the same with the weights of this pass.
    """
    names = summed(reductions)
    reduced = backends.base.aggregate(weighted, x, names, backends.get(backend))
    for name in reductions:
        if is_degree(name):
            bound = name.partition("@")[2]
            counted = graph.select(graph.weight.detach() > float(bound)) if bound else graph
            reduced[name] = (
                counted.in_degree().view(*x.shape[:-2], graph.num_receivers, 1).to(x.dtype)
            )
    return reduced


def summed(reductions: tuple[str, ...]) -> tuple[str, ...]:
    """Those of :func:`graphformer.aggregate`; a degree is none."""
    return tuple(name for name in reductions if not is_degree(name))


def is_degree(reduction: str) -> bool:
    """Whether it counts edges: ``"degree"``, ``"degree@0.2"``."""
    return reduction.partition("@")[0] == "degree"
