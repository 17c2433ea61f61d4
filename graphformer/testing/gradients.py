"""Law 9: every parameter gets a finite gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.testing.common import gradients_of, tensors_of, violation


def check_gradients(
    module: nn.Module,
    *inputs: Any,
    loss: Callable[[nn.Module], Tensor] | None = None,
    nonzero: bool = True,
    ignore: Iterable[str] = (),
    seed: int = 0,
) -> None:
    """Law 9: every parameter that requires grad gets a gradient that is there, finite and somewhere not 0.

    Args:
        module: any module; its ``.grad`` fields are left as they were.
        inputs: what it is called with; the gradient is that of a fixed random weighting of all its outputs.
        loss: computes a scalar from the module instead, ``lambda model: model(input_ids=ids, labels=ids).loss``; no
            ``inputs`` then.
        nonzero: also refuse a gradient that is 0 everywhere. Turn off for a fresh adapter, whose inner matrices
            start behind a 0.
        ignore: names of parameters, or ends of names, that need no gradient.

    Raises:
        LawViolation: names every parameter at fault, and how.
        ValueError: nothing requires grad, an ``ignore`` fits no parameter, or not exactly one of ``inputs`` and
            ``loss`` is given.
    """
    if (loss is None) == (not inputs):
        raise ValueError("give either the inputs to call the module with, or loss=, a function of the module")
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for end in (ignore := tuple(ignore)):
        if not any(name.endswith(end) for name in trained):
            raise ValueError(f"ignore names {end!r}, but no parameter's name ends so; there are: {', '.join(trained)}")
    if not trained:
        raise ValueError("no parameter of the module requires grad, so there is nothing to check")
    with torch.enable_grad():
        outputs = [loss(module)] if loss is not None else list(tensors_of(module(*inputs)).values())
    if not any(output.requires_grad for output in outputs):
        raise violation(9, "no output depends on a parameter: the graph is cut before the output (detach, no_grad?)")
    problems = []
    for name, gradient in gradients_of(outputs, trained, seed=seed).items():
        if name.endswith(ignore) if ignore else False:
            continue
        if gradient is None:
            problems.append(f"{name}: no gradient")
        elif not bool(gradient.isfinite().all()):
            bad = (~gradient.isfinite()).nonzero()
            problems.append(f"{name}: {len(bad)} of {gradient.numel()} entries are not finite, first at index {tuple(bad[0].tolist())}")
        elif nonzero and not bool((gradient != 0).any()):
            problems.append(f"{name}: the gradient is 0 everywhere")
    if problems:
        raise violation(9, f"{len(problems)} of {len(trained)} parameters are at fault: {'; '.join(problems)}")
