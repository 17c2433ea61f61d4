"""NaN and infinite numbers: one answer, in one place.

A NaN compares false with every threshold, so where edges are chosen by weight it would drop them
without a word. The answer is:

- Eager code on the CPU raises ``ValueError``, whatever the executor.
- Where edges are cut on an accelerator the processor waits for their number anyway; that raises
  too.
- Where no number is read on the host (an accelerator with nothing cut; code that is compiled,
  exported or run under ``torch.func.vmap``) nothing is lost: NaN goes through to the output, as in
  torch's own layers. Compiled code that cuts edges keeps the check as ``torch._assert_async``.

``with checked_everywhere():`` reads the numbers on an accelerator as well, at the cost of a
synchronisation a layer: to find where a NaN comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch._subclasses import fake_tensor

_everywhere: ContextVar[bool] = ContextVar("graphformer_finite_everywhere", default=False)


@contextmanager
def checked_everywhere() -> Iterator[None]:
    """Raise at NaN and infinite numbers on every device, inside this context.

    Without it an accelerator is not waited for, and NaN goes through to the output. Compiled code
    is not changed by it.
    """
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


class NotFinite(ValueError):
    """Numbers are NaN or infinite where none may be."""


def traced() -> bool:
    """Whether torch records what is done here instead of doing it: ``torch.compile``, export,
    ``torch.jit.trace``.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def batched(*values: Tensor) -> bool:
    """Whether one of them holds many samples behind one, under ``torch.func.vmap``: then no number
    can be read, for it is many.
    """
    for value in values:
        while torch._C._functorch.is_functorch_wrapped_tensor(value):
            if torch._C._functorch.is_batchedtensor(value):
                return True
            value = torch._C._functorch.get_unwrapped(value)
    return False


def transformed() -> bool:
    """Whether this runs inside one of ``torch.func``'s transforms (or ``is_grads_batched``)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def fake(value: Tensor) -> bool:
    """Whether it has a shape and no numbers. The plainest tensors are told at a glance: this is
    asked in each layer of each token that is generated.
    """
    if type(value) is Tensor and not (
        torch._C._functorch.is_functorch_wrapped_tensor(value) or torch._is_functional_tensor(value)
    ):
        return value.is_meta
    return value.is_meta or fake_tensor.is_fake(value)


def readable(*values: Tensor, cuts: bool = False) -> bool:
    """Whether their numbers may be read on the host here.

    Args:
        cuts: what follows waits for numbers of these anyway, or loses a NaN; then an accelerator is
            read too.
    """
    if traced() or any(fake(value) for value in values) or batched(*values):
        return False
    return cuts or all(on_host(value) for value in values) or _everywhere.get()


def on_host(value: Tensor) -> bool:
    """Whether reading its numbers waits for no other device."""
    return value.device.type == "cpu"


def require_finite(value: Tensor, what: str, remedy: str, *, cuts: bool = False) -> None:
    """Refuse NaN and infinite numbers, where the rule above says so.

    Args:
        what: how the error's text begins, up to the verb: ``"x holds"``.
        remedy: how it ends.
        cuts: edges are about to be chosen by ``value``, so that a NaN would be lost.

    Raises:
        NotFinite: ``{what} 3 NaN or infinite values among 35;
            {remedy}``. In compiled code ``RuntimeError``, which does not count them.
    """
    if not value.numel():
        return
    value = value.detach()
    if traced():
        if cuts:
            torch._assert_async(
                torch.isfinite(value).all(), f"{what} NaN or infinite values; {remedy}"
            )
        return
    if not readable(value, cuts=cuts):
        return
    half = value.dtype in (torch.float16, torch.bfloat16)
    if not math.isfinite(float(value.sum(dtype=torch.float32 if half else None))):
        count = int((~torch.isfinite(value)).sum())
        if count:  # finite numbers may have an infinite sum
            raise NotFinite(
                f"{what} {count} NaN or infinite values among {value.numel()}; {remedy}"
            )
