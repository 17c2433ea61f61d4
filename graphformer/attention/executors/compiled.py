"""Edges under ``torch.compile``: building and aggregating them is one opaque operator, so that a
layer stays one graph.

How many edges there are is in the data, which a compiler does not see. It sees an operator from
queries, keys and features to the reductions, all of known shape. The backward operator builds the
edges again: saved ones would bring their number back in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.attend import is_degree
from graphformer.attention.attend import over_edges as over_edges_now
from graphformer.attention.executors.plans import Plan
from graphformer.attention.executors.travel import Packer, unpack
from graphformer.attention.problem import Problem
from graphformer.uncompiled import uncompiled


@uncompiled(
    "these edges cannot be taken into the graph: a slot value is made inside the compiled function "
    "(make it before), or it holds what is neither text, number nor tensor, or this is an export"
)
def over_edges_apart(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], chosen: Plan, dropout: float
) -> dict[str, Tensor]:
    return over_edges_now(problem, x, reductions, chosen, dropout)[0]


def over_edges(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], chosen: Plan, dropout: float
) -> dict[str, Tensor]:
    """As :func:`graphformer.attention.attend.over_edges`, without the graph; for code that is being
    compiled.
    """
    packer = Packer()
    slots = (
        problem.rule,
        problem.edges,
        problem.score.prepared(),
        problem.normalize,
        problem.sparsify,
    )
    texts = [packer.text(value) for value in slots]
    if packer.strange:
        return over_edges_apart(problem, x, reductions, chosen, dropout)
    draws = dropout or (torch.is_grad_enabled() and packer.drawing)
    seed = torch.randint(2**62, (), device="cpu") if draws else None
    out = reduce_edges(
        problem.q,
        problem.k,
        x,
        packer.tensors,
        f"[{', '.join(texts)}]",
        ",".join(reductions),
        chosen.executor,
        chosen.backend,
        dropout,
        seed,
    )
    return dict(zip(reductions, out, strict=True))


def reduced(
    q: Tensor, k: Tensor, x: Tensor, held: Sequence[Tensor], *question: Any
) -> list[Tensor]:
    """The eager answer to the question that travelled as tensors, numbers and text."""
    slots, reductions, executor, backend, dropout, seed = question
    problem = Problem(q, k, *unpack(f'{{"()": {slots}}}', held))
    names = tuple(reductions.split(","))
    with torch.random.fork_rng(devices=[q.device] if q.is_cuda else [], enabled=seed is not None):
        if seed is not None:  # the forward and the backward operator draw the same
            generator = (
                torch.cuda.default_generators[q.device.index]
                if q.is_cuda
                else torch.default_generator
            )
            generator.manual_seed(int(seed))
        out, _ = over_edges_now(problem, x, names, Plan(executor, backend, "compiled"), dropout)
    return [out[name] for name in names]


def floating(held: Sequence[Tensor]) -> list[Tensor]:
    """Those that can have a gradient."""
    return [value for value in held if value.is_floating_point()]


def fresh(value: Tensor) -> Tensor:
    """A copy: what an operator returns has the promised layout and shares no memory with its inputs
    or other results.
    """
    return value.detach().clone(memory_format=torch.contiguous_format)


# CUDA graphs cannot record these operators: the number of edges travels to the processor.
_tags: dict[str, Any] = (
    {"tags": (torch.Tag.cudagraph_unsafe,)} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


@torch.library.custom_op("graphformer::reduce_edges", mutates_args=(), **_tags)
def reduce_edges(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    held: Sequence[Tensor],
    slots: str,
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
) -> list[Tensor]:
    with torch.no_grad():
        return [
            fresh(out)
            for out in reduced(q, k, x, held, slots, reductions, executor, backend, dropout, seed)
        ]


@reduce_edges.register_fake
def _(
    q: Tensor, k: Tensor, x: Tensor, held: Sequence[Tensor], slots: str, reductions: str, *more: Any
) -> list[Tensor]:
    rows = q.shape[:3]
    return [
        x.new_empty((*rows, 1 if is_degree(name) else x.shape[-1]))
        for name in reductions.split(",")
    ]


@torch.library.custom_op("graphformer::reduce_edges_backward", mutates_args=(), **_tags)
def reduce_edges_backward(
    grads: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    x: Tensor,
    held: Sequence[Tensor],
    slots: str,
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
) -> list[Tensor]:
    with recording():
        inputs = [value.detach().requires_grad_() for value in (q, k, x, *floating(held))]
        q, k, x, *trained = inputs
        places = iter(trained)
        held = [next(places) if value.is_floating_point() else value for value in held]
        out = reduced(q, k, x, held, slots, reductions, executor, backend, dropout, seed)
        pairs = [
            (value, grad) for value, grad in zip(out, grads, strict=True) if value.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if pairs:  # a degree has no gradient
            values, upstream = zip(*pairs, strict=True)
            found = torch.autograd.grad(values, inputs, upstream, allow_unused=True)
    return [
        value.new_zeros(value.shape) if grad is None else fresh(grad)
        for value, grad in zip(inputs, found, strict=True)
    ]


@reduce_edges_backward.register_fake
def _(
    grads: Sequence[Tensor], q: Tensor, k: Tensor, x: Tensor, held: Sequence[Tensor], *question: Any
) -> list[Tensor]:
    return [value.new_empty(value.shape) for value in (q, k, x, *floating(held))]


@contextmanager
def recording() -> Iterator[None]:
    """Autograd, inside an operator's kernel: there torch has taken it out of the dispatch."""
    keys = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
        torch.enable_grad(),
    ):
        yield


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, x, held, *ctx.question, seed = inputs
    ctx.save_for_backward(q, k, x, seed, *held)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    q, k, x, seed, *held = ctx.saved_tensors
    dq, dk, dx, *trained = reduce_edges_backward(grads, q, k, x, held, *ctx.question, seed)
    places = iter(trained)
    dheld = [next(places) if value.is_floating_point() else None for value in held]
    return dq, dk, dx, dheld, *(None for _ in ctx.question), None


reduce_edges.register_autograd(_backward, setup_context=_save)
