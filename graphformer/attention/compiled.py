"""Edges under ``torch.compile``: building and aggregating them is one opaque operator, so that a
layer stays one graph.

How many edges there are is in the data, which a compiler does not see. It sees an operator from
queries, keys and features to the reductions, all of known shape. The backward operator builds the
edges again: saved ones would bring their number back in.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.attend import is_degree
from graphformer.attention.attend import over_edges as over_edges_now
from graphformer.attention.candidates import All, Both, Causal, Edges, Keep, Packed, Rule, Window
from graphformer.attention.normalizers import Identity, ReLU, Sigmoid, Softmax
from graphformer.attention.plans import Plan
from graphformer.attention.problem import Problem
from graphformer.attention.scores import ScaledDotProduct
from graphformer.attention.sparsifiers import Threshold, TopFraction, TopK, trainable
from graphformer.uncompiled import uncompiled

# An operator takes tensors, numbers and text. Other values travel as their number here. It does not
# keep them alive: whoever runs the compiled code holds them, which is guarded by their identity.
# Numbers are not given again.
_values: dict[int, Callable[[], Any]] = {}
_numbers = itertools.count()

STRANGE = -1
CERTAIN = (type(None), Softmax, Sigmoid, ReLU, Identity, Threshold, TopFraction, TopK)


@torch.compiler.assume_constant_result
def place(value: Any, identity: int) -> int:
    """The value's place among those that compiled code refers to, or ``STRANGE`` where an operator
    cannot refer to it.

    ``identity`` is ``id(value)`` as compiled code sees it. It is another one where the value is
    made by the compiled code itself: torch then hands over an empty imitation. Nor can an operator
    pass gradients to what is not among its tensors, and an exported program finds another list
    where it is loaded.
    """
    if id(value) != identity:
        return STRANGE
    held = (
        value.parameters()
        if isinstance(value, nn.Module)
        else getattr(value, "__dict__", {}).values()
    )
    trained = trainable(value) or any(
        isinstance(part, Tensor) and part.requires_grad for part in held
    )
    if trained or getattr(torch.compiler, "is_exporting", bool)():
        return STRANGE
    for number, known in list(_values.items()):
        if known() is value:
            return number
    number = next(_numbers)
    try:
        _values[number] = weakref.ref(value, lambda _: _values.pop(number, None))
    except TypeError:  # None, and what has no place for weak references
        _values[number] = lambda: value
    return number


def value_at(number: int) -> Any:
    """The value that compiled code calls by a number."""
    if number not in _values:
        raise RuntimeError(
            "compiled code refers to a rule, normalizer or sparsifier that is gone: keep it as "
            "long as the compiled layer"
        )
    return _values[number]()


@uncompiled(
    "these edges cannot be taken into the graph: a rule, normalizer or sparsifier is made inside "
    "the compiled function (make it before), or it holds tensors that are trained, or the score is "
    "not the scaled dot product, or this is an export"
)
def over_edges_apart(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], chosen: Plan, dropout: float
) -> dict[str, Tensor]:
    return over_edges_now(problem, x, reductions, chosen, dropout)[0]


OWN, ALL, CAUSAL, KEEP, PACKED, BOTH, WINDOW, EDGES, EDGES_OF_SEQUENCES = range(9)


def take_apart(rule: Rule | Edges, tensors: list[Tensor], own: list[Any]) -> list[int]:
    """A rule in prefix notation; its tensors, and rules of a user's own, are put on the lists in
    the same order.
    """
    if type(rule) is Both:
        return [BOTH, *take_apart(rule.first, tensors, own), *take_apart(rule.second, tensors, own)]
    if type(rule) is All:
        return [ALL]
    if type(rule) is Causal:
        return [CAUSAL]
    if type(rule) is Window:
        return [WINDOW, rule.size]
    if type(rule) is Keep:
        tensors.append(rule.keep)
        return [KEEP]
    if type(rule) is Packed:
        tensors.append(rule.segments)
        return [PACKED]
    if type(rule) is Edges:
        tensors += [rule.senders, rule.receivers]
        if rule.sequence is None:
            return [EDGES]
        tensors.append(rule.sequence)
        return [EDGES_OF_SEQUENCES]
    own.append(rule)
    return [OWN]


def put_together(
    codes: Iterator[int], tensors: Iterator[Tensor], own: Iterator[Any]
) -> Rule | Edges:
    """What :func:`take_apart` took apart."""
    code = next(codes)
    if code == BOTH:
        first, second = put_together(codes, tensors, own), put_together(codes, tensors, own)
        assert isinstance(first, Rule) and isinstance(second, Rule)
        return Both(first, second)
    if code == WINDOW:
        return Window(next(codes))
    if code in (ALL, CAUSAL):
        return All() if code == ALL else Causal()
    if code in (KEEP, PACKED):
        return Keep(next(tensors)) if code == KEEP else Packed(next(tensors))
    if code in (EDGES, EDGES_OF_SEQUENCES):
        return Edges(
            next(tensors), next(tensors), next(tensors) if code == EDGES_OF_SEQUENCES else None
        )
    return next(own)


def over_edges(
    problem: Problem, x: Tensor, reductions: tuple[str, ...], chosen: Plan, dropout: float
) -> dict[str, Tensor]:
    """As :func:`graphformer.attention.attend.over_edges`, without the graph; for code that is being
    compiled.
    """
    held: list[Tensor] = []
    values: list[Any] = [problem.normalize, problem.sparsify]
    rule = take_apart(problem.rule, held, values)
    rule += take_apart(All() if problem.edges is None else problem.edges, held, values)
    places = [place(value, id(value)) for value in values]
    if STRANGE in places or type(problem.score) is not ScaledDotProduct:
        return over_edges_apart(problem, x, reductions, chosen, dropout)
    # A user's own sparsifier may be a random one.
    draws = dropout or (
        torch.is_grad_enabled() and any(type(value) not in CERTAIN for value in values)
    )
    seed = torch.randint(2**62, (), device="cpu") if draws else None
    out = reduce_edges(
        problem.q,
        problem.k,
        x,
        held,
        rule,
        places,
        ",".join(reductions),
        chosen.executor,
        chosen.backend,
        dropout,
        seed,
    )
    return dict(zip(reductions, out, strict=True))


def reduced(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    held: Sequence[Tensor],
    rule: Sequence[int],
    places: Sequence[int],
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The eager answer to the question that travelled as tensors, numbers and text."""
    normalize, sparsify, *own = (value_at(number) for number in places)
    parts = iter(rule), iter(held), iter(own)
    first, second = put_together(*parts), put_together(*parts)
    assert isinstance(first, Rule)
    edges = second if isinstance(second, Edges) else None
    problem = Problem(q, k, first, edges, ScaledDotProduct(), normalize, sparsify)
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
    rule: Sequence[int],
    places: Sequence[int],
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
) -> list[Tensor]:
    with torch.no_grad():
        return [
            fresh(out)
            for out in reduced(
                q, k, x, held, rule, places, reductions, executor, backend, dropout, seed
            )
        ]


@reduce_edges.register_fake
def _(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    held: Sequence[Tensor],
    rule: Sequence[int],
    places: Sequence[int],
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
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
    rule: Sequence[int],
    places: Sequence[int],
    reductions: str,
    executor: str,
    backend: str,
    dropout: float,
    seed: Tensor | None,
) -> list[Tensor]:
    with recording():
        inputs = q, k, x = [value.detach().requires_grad_() for value in (q, k, x)]
        out = reduced(q, k, x, held, rule, places, reductions, executor, backend, dropout, seed)
        pairs = [
            (value, grad) for value, grad in zip(out, grads, strict=True) if value.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * 3
        if pairs:  # a degree has no gradient
            values, upstream = zip(*pairs, strict=True)
            found = torch.autograd.grad(values, inputs, upstream, allow_unused=True)
    return [
        value.new_zeros(value.shape) if grad is None else fresh(grad)
        for value, grad in zip(inputs, found, strict=True)
    ]


@reduce_edges_backward.register_fake
def _(grads: Sequence[Tensor], q: Tensor, k: Tensor, x: Tensor, *question: Any) -> list[Tensor]:
    return [value.new_empty(value.shape) for value in (q, k, x)]


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
    ctx.num_held = len(held)
    ctx.save_for_backward(q, k, x, seed, *held)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    q, k, x, seed, *held = ctx.saved_tensors
    found = reduce_edges_backward(grads, q, k, x, held, *ctx.question, seed)
    return *found, [None] * ctx.num_held, *(None for _ in ctx.question), None


reduce_edges.register_autograd(_backward, setup_context=_save)
