"""Law 13: threads that call one layer at once get the answers that one thread gets."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags
from graphformer.testing.common import normal, output_of, require_equal, run_steadily, violation

LAW = 13


@strict_flags
def check_threads(
    layer: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    threads: int = 8,
    calls: int = 500,
    gradients: bool = True,
    parameters: nn.Module | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Law 13: what a layer keeps of a call on itself is seen by the calls of other threads.

    The answer to each input is taken in one thread; then ``threads`` threads start at once and go
    through the inputs, each from another one. Python is made to switch between threads far more
    often than it does by itself.

    Args:
        layer: anything that can be called: a layer, a model, ``lambda ids: model.generate(ids)``.
        inputs: at least two inputs that differ (an answer to another thread's input could not be
            told otherwise), best in their shapes too. Each is a tensor, a tuple of arguments or a
            mapping of keyword arguments.
        threads: how many.
        calls: of all threads together.
        gradients: run backward too, and compare the gradients of a fixed random weighting of the
            output at every floating input and parameter. Taken with ``torch.autograd.grad``, as
            ``.grad`` is one for all threads.
        parameters: the module whose parameters are meant; ``layer`` itself when left out, if it is
            one.

    Raises:
        LawViolation: an answer or a gradient differs from that of one thread, or a call raises an
            error.
        ValueError: inputs that do not differ, a layer whose answers differ without threads, or no
            gradient to compare.
    """
    if threads < 2 or calls < threads:
        raise ValueError(
            f"threads must be at least 2 and calls at least as many, got threads={threads} and "
            f"calls={calls}"
        )
    arguments = [_arguments(one) for one in inputs]
    module = (
        parameters if parameters is not None else layer if isinstance(layer, nn.Module) else None
    )
    weights = (
        []
        if module is None or not gradients
        else [one for one in module.parameters() if one.requires_grad]
    )
    want = []
    for args, kwargs in arguments:
        run_steadily(lambda args=args, kwargs=kwargs: layer(*args, **kwargs))
        want.append(_answer(layer, args, kwargs, weights, gradients))
    if len(want) < 2 or all(_equal(want[0][0], one[0]) for one in want[1:]):
        raise ValueError(
            f"inputs must be at least two whose answers differ, got {len(want)}: a mix-up would "
            "not be seen"
        )

    failures: dict[int, BaseException] = {}
    answers: dict[int, tuple[Tensor, ...]] = {}
    start = threading.Barrier(threads)

    def work(first: int) -> None:
        start.wait()
        for call in range(first, calls, threads):
            try:
                answers[call] = _answer(
                    layer, *arguments[call % len(arguments)], weights, gradients
                )
            except Exception as error:  # whatever it is, it is what the law is about
                failures[call] = error

    with _restless():
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failures:
        call = min(failures)
        error = failures[call]
        raise violation(
            LAW,
            f"{len(failures)} of {calls} calls in {threads} threads raised an error that one "
            f"thread does not raise, first call {call} (input {call % len(arguments)}): "
            f"{type(error).__name__}: {error}",
        ) from error
    for call in sorted(answers):
        for part, (got, wanted) in enumerate(
            zip(answers[call], want[call % len(arguments)], strict=True)
        ):
            require_equal(
                LAW,
                got,
                wanted,
                partial(_text, call, calls, threads, len(arguments), part),
                atol=atol,
                rtol=rtol,
            )


def _text(
    call: int, calls: int, threads: int, inputs: int, part: int, index: tuple[int, ...]
) -> str:
    name = f"gradient {part - 1}" if part else "output"
    where = f" at index {index}" if index else ""
    return (
        f"call {call} of {calls} in {threads} threads (input {call % inputs}) has another "
        f"{name}{where} than one thread"
    )


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given), {}) if isinstance(given, tuple | list) else ((given,), {})


def _answer(
    layer: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Sequence[Tensor],
    gradients: bool,
) -> tuple[Tensor, ...]:
    """The output, and, if asked for, its gradients at the inputs of this call and at the weights; 0
    where there is none.
    """
    if not gradients:
        with torch.no_grad():
            return (output_of(layer(*args, **kwargs)).clone(),)
    args, kwargs = tuple(map(_own, args)), {name: _own(value) for name, value in kwargs.items()}
    leaves = [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, Tensor) and value.requires_grad
    ]
    leaves = [*leaves, *weights]
    output = output_of(layer(*args, **kwargs))
    if not output.requires_grad:
        raise ValueError(
            "the output has no gradient, so there is none to compare: give gradients=False, or "
            "parameters="
        )
    cotangent = normal(output.shape, output.dtype, output.device, seed=0)
    found = torch.autograd.grad(output, leaves, cotangent, allow_unused=True)
    return (
        output.detach(),
        *(
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(leaves, found, strict=True)
        ),
    )


def _own(value: Any) -> Any:
    """A floating tensor as a leaf of this call alone."""
    return (
        value.detach().clone().requires_grad_()
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a.double(), b.double(), equal_nan=True))


@contextmanager
def _restless() -> Iterator[None]:
    """Python looks for another thread to run every 10 microseconds and not every 5 milliseconds."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
