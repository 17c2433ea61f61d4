"""What the modules of one layer did in a forward pass, and which of them an adapter can follow.

A place is a step whose output is changed, and the step whose input is the residual that the layer
adds to it (None: it is in there).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Step:
    """One call of a module that a layer calls.

    Attributes:
        name: of the module, seen from the layer.
        into, out: the hidden states it got and gave.
    """

    name: str
    module: nn.Module
    into: Tensor | None
    out: Tensor | None


Found = tuple[Step, "Step | None"]


def stream_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among a module's arguments."""
    for value in (*args[:1], kwargs.get("hidden_states"), *kwargs.values()):
        # OPT folds sequences into one axis
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (2, 3):
            return value
    return None


def stream_out(output: Any) -> Tensor | None:
    """The hidden states that a module returns, alone or first in a tuple."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def before_mlp(steps: list[Step], attention: int, nested: bool) -> Found | None:
    """Where ``residual + attention`` comes into being and is read by a later step; ``attention`` is
    the number of its step.
    """
    own = steps[attention]
    normed = _behind(steps, attention)
    # the last one: a module that drops out its input may come after the attention
    for changed in _once(steps, *reversed(normed), own):
        later = steps[steps.index(changed) + 1 :]
        for residual in _once(steps, *steps[: attention + 1]):
            if any(same(_sum(residual.into, changed.out), step.into) for step in later):
                return changed, residual
    # the attention function is called inside a module that also adds the residual
    if nested and normed:
        return own, None
    return None


def after_mlp(steps: list[Step], attention: int, result: Tensor | None) -> Found | None:
    """Where the layer's result comes into being."""
    later = steps[attention + 1 :]
    for changed in _once(steps, *reversed(later)):
        if same(changed.out, result):
            return changed, None
        for residual in _once(steps, *later[: later.index(changed) + 1]):
            if same(_sum(residual.into, changed.out), result):
                return changed, residual
    return None


def beside_mlp(steps: list[Step], attention: int, result: Tensor | None) -> Found | None:
    """Where the layer's result is ``residual + attention + feed-forward``: a message added to the
    attention joins the result as it is.
    """
    own = steps[attention]
    for changed in _once(steps, *reversed(_behind(steps, attention)), own):
        for residual in _once(steps, *steps[: attention + 1]):
            for other in steps:
                if other is not changed and any(
                    same(total, result) for total in _sums(residual.into, changed.out, other.out)
                ):
                    return changed, residual
    return None


def _once(steps: list[Step], *some: Step) -> list[Step]:
    """Those whose module the layer calls once: one dropout for attention and feed-forward alike is
    not a place of its own.
    """
    return [step for step in some if sum(other.module is step.module for other in steps) == 1]


def _behind(steps: list[Step], attention: int) -> list[Step]:
    """The steps that read the attention's output."""
    return [step for step in steps[attention + 1 :] if same(step.into, steps[attention].out)]


def _sum(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None or y is None or x.shape[-1] != y.shape[-1] or x.numel() != y.numel():
        return None
    return x.reshape(y.shape) + y


def _sums(x: Tensor | None, y: Tensor | None, z: Tensor | None) -> Iterator[Tensor | None]:
    """The sum of three in each order: in half precision they differ."""
    yield _sum(_sum(x, y), z)
    yield _sum(x, _sum(y, z))
    yield _sum(_sum(x, z), y)


def same(x: Tensor | None, y: Tensor | None, loose: bool = False) -> bool:
    """Whether two tensors hold the same numbers, up to the rounding of one sum, or, if ``loose``,
    of products in the model's precision.
    """
    if x is None or y is None or x.shape[-1] != y.shape[-1] or x.numel() != y.numel():
        return False
    x = x.reshape(y.shape)
    if torch.equal(x, y):
        return True
    exact = x.dtype in (torch.float32, torch.float64)
    # products may run in TF32; one sum is the same sum
    tolerance = (5e-3 if exact else 3e-2) if loose else (1e-5 if exact else 0)
    return bool((x.double() - y.double()).abs().max() <= tolerance * y.double().abs().max())
