"""Laws 9 and 14: every parameter gets a finite gradient, and gradients have the right gradients
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags
from graphformer.testing.common import gradients_of, normal, require_equal, tensors_of, violation


@strict_flags
def check_gradients(
    module: nn.Module,
    *inputs: Any,
    loss: Callable[[nn.Module], Tensor] | None = None,
    nonzero: bool = True,
    ignore: Iterable[str] = (),
    seed: int = 0,
) -> None:
    """Law 9: every parameter that requires grad gets a gradient that is there, finite and somewhere
    not 0.

    Args:
        module: any module; its ``.grad`` fields are left as they were.
        inputs: what it is called with; the gradient is that of a fixed random weighting of all its
            outputs.
        loss: computes a scalar from the module instead, ``lambda model: model(input_ids=ids,
            labels=ids).loss``; no ``inputs`` then.
        nonzero: also refuse a gradient that is 0 everywhere. Turn off for a fresh adapter, whose
            inner matrices start behind a 0.
        ignore: names of parameters, or ends of names, that need no gradient.

    Raises:
        LawViolation: names every parameter at fault, and how.
        ValueError: nothing requires grad, an ``ignore`` fits no parameter, or not exactly one of
            ``inputs`` and ``loss`` is given.
    """
    if (loss is None) == (not inputs):
        raise ValueError(
            "give either the inputs to call the module with, or loss=, a function of the module"
        )
    trained = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    for end in (ignore := tuple(ignore)):
        if not any(name.endswith(end) for name in trained):
            raise ValueError(
                f"ignore names {end!r}, but no parameter's name ends so; there are: "
                f"{', '.join(trained)}"
            )
    if not trained:
        raise ValueError("no parameter of the module requires grad, so there is nothing to check")
    with torch.enable_grad():
        outputs = [loss(module)] if loss is not None else list(tensors_of(module(*inputs)).values())
    if not any(output.requires_grad for output in outputs):
        raise violation(
            9,
            "no output depends on a parameter: the graph is cut before the output (detach, "
            "no_grad?)",
        )
    problems = []
    for name, gradient in gradients_of(outputs, trained, seed=seed).items():
        if name.endswith(ignore) if ignore else False:
            continue
        if gradient is None:
            problems.append(f"{name}: no gradient")
        elif not bool(gradient.isfinite().all()):
            bad = (~gradient.isfinite()).nonzero()
            problems.append(
                f"{name}: {len(bad)} of {gradient.numel()} entries are not finite, first at index "
                f"{tuple(bad[0].tolist())}"
            )
        elif nonzero and not bool((gradient != 0).any()):
            problems.append(f"{name}: the gradient is 0 everywhere")
    if problems:
        raise violation(
            9, f"{len(problems)} of {len(trained)} parameters are at fault: {'; '.join(problems)}"
        )


def check_second_gradient(
    layer: Callable[..., Any],
    *inputs: Any,
    parameters: nn.Module | Mapping[str, Tensor] | None = None,
    step: float = 1e-5,
    rtol: float = 1e-4,
    seed: int = 0,
) -> None:
    r"""Law 14: the derivative of a gradient, asked for as users do, is the one that finite
    differences of the first gradient have.

    With :math:`\ell` a fixed random quadratic function of the outputs, :math:`v` a random direction
    and each input and parameter :math:`\theta` in turn:

    .. math::
        \langle u, \nabla_\theta \langle \nabla \ell, v \rangle \rangle =
        \big(\langle \nabla \ell(\theta + h u), v \rangle
        - \langle \nabla \ell(\theta - h u), v \rangle \big) / 2h

    A custom function that is differentiable once need not raise in
    ``torch.autograd.grad(gradient, x)``: where x is named, autograd may go round the node that
    would, and what comes back is a plausible part of the answer.

    Args:
        layer: any module or function of tensors.
        inputs: what it is called with; the floating ones are differentiated.
        parameters: further tensors to differentiate, or the module that has them; those of
            ``layer`` itself when left out.
        step: of the finite differences. Where one step meets a corner (a threshold, a maximum), a
            tenth of it is tried too.
        rtol: of each derivative, relative to the largest.

    Raises:
        LawViolation: names the input or parameter.
        ValueError: not in float64, where finite differences say too little; or nothing to
            differentiate.
        Exception: whatever a layer raises that refuses a second derivative, as it may.
    """

    def is_leaf(value: Any) -> bool:
        return isinstance(value, Tensor) and value.is_floating_point()

    fresh = [
        value.detach().clone().requires_grad_() if is_leaf(value) else value for value in inputs
    ]
    leaves: dict[str, Tensor] = {
        f"input {i}": value for i, value in enumerate(fresh) if is_leaf(value)
    }
    own = layer if parameters is None else parameters
    named = (
        dict(own.named_parameters())
        if isinstance(own, nn.Module)
        else dict(own)
        if isinstance(own, Mapping)
        else {}
    )
    leaves |= {f"parameter {name!r}": value for name, value in named.items() if value.requires_grad}
    if not leaves:
        raise ValueError(
            "no input is floating point and no parameter requires grad, so there is nothing to "
            "differentiate"
        )
    for name, leaf in leaves.items():
        if leaf.dtype != torch.float64:
            raise ValueError(
                f"{name} is {leaf.dtype}, and finite differences need float64: use layer.double() "
                "and x.double()"
            )
    directions = [
        normal(leaf.shape, leaf.dtype, leaf.device, seed=seed + 1 + i)
        for i, leaf in enumerate(leaves.values())
    ]

    def slope(recorded: bool) -> list[Tensor]:
        """The gradient at every leaf; that of a loss which is curved also where the layer is
        linear.
        """
        with torch.enable_grad():
            loss = torch.zeros((), dtype=torch.float64)
            for i, output in enumerate(tensors_of(layer(*fresh)).values()):
                weight, bend = (
                    normal(output.shape, torch.float64, output.device, seed=seed - 1 - 2 * i - j)
                    for j in range(2)
                )
                loss = loss + (weight * output).sum() + (bend * output.square()).sum() / 2
            if not loss.requires_grad:
                raise violation(
                    14,
                    "no output depends on an input or a parameter: the graph is cut before the "
                    "output (detach, no_grad?)",
                )
            found = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=recorded, allow_unused=True
            )
        return [
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(leaves.values(), found, strict=True)
        ]

    def along(grads: list[Tensor]) -> Tensor:
        return torch.stack(
            [(grad * direction).sum() for grad, direction in zip(grads, directions, strict=True)]
        ).sum()

    plain, recorded = slope(False), slope(True)
    for name, got, want in zip(leaves, recorded, plain, strict=True):
        text = f"the gradient at {name} is another one with create_graph=True"
        atol = 1e-9 * float(want.abs().max()) + 1e-12
        require_equal(14, got, want, lambda index, text=text: text, atol=atol)  # type: ignore[misc]
    total = along(recorded)
    found = []
    for leaf, direction in zip(leaves.values(), directions, strict=True):
        second: Tensor | None = None
        # otherwise the first gradient is cut off from everything, which reads as 0
        if total.requires_grad:
            (second,) = torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
        found.append(0.0 if second is None else float((second * direction).sum()))

    def measured(at: int, size: float) -> float:
        return _difference(
            list(leaves.values())[at], directions[at], size, lambda: along(slope(False))
        )

    first = [measured(at, step) for at in range(len(leaves))]
    scale = sum(
        float(grad.norm() * direction.norm())
        for grad, direction in zip(plain, directions, strict=True)
    )
    # Relative to the largest, and what the difference of two gradients loses to rounding.
    allowed = rtol * max(map(abs, first)) + 1e-13 * scale / step + 1e-9
    for at, (name, got_there, nearest) in enumerate(zip(leaves, found, first, strict=True)):
        if not abs(got_there - nearest) <= allowed:
            finer = measured(at, step / 10)
            nearest = finer if abs(finer - got_there) < abs(nearest - got_there) else nearest
        if not abs(got_there - nearest) <= allowed:
            raise violation(
                14,
                f"{name}: the derivative of the gradient along a random direction is "
                f"{got_there:.6g}, finite differences say {nearest:.6g}",
                difference=abs(got_there - nearest),
                allowed=allowed,
            )


def _difference(leaf: Tensor, direction: Tensor, step: float, value: Callable[[], Tensor]) -> float:
    """The central difference of a value as a leaf moves along a direction; the leaf is put back bit
    by bit.
    """
    kept = leaf.detach().clone()
    ends = []
    try:
        for side in (1.0, -1.0):
            with torch.no_grad():
                leaf.copy_(kept + side * step * direction)
            ends.append(float(value()))
    finally:
        with torch.no_grad():
            leaf.copy_(kept)
    return (ends[0] - ends[1]) / (2 * step)
