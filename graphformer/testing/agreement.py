"""Laws 5 and 8: ways of computing the same thing agree, and a fresh adapter is the identity."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags
from graphformer.testing.common import gradients_of, require_equal, tensors_of, violation

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


@strict_flags
def check_agreement(
    variants: Mapping[str, Callable[..., Any]],
    inputs: Inputs,
    *,
    parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | None = None,
    gradients: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 5: every variant gives the first one's outputs and gradients.

    The gradients are those of one fixed random weighting of the outputs, at the inputs that require
    grad and at the parameters.

    Args:
        variants: name -> callable, the reference first; for instance one layer an executor.
        inputs: one tensor, positional arguments, or keyword arguments by name. Each variant gets
            fresh copies of the tensors.
        parameters: what else to compare gradients at, where the variants share it: a module,
            tensors by name, or tensors. When left out, a variant that is a module brings its own,
            compared by name.
        gradients: compare gradients too.
        atol, rtol: by dtype when left out, see :func:`tolerance`.

    Raises:
        LawViolation: an output or a gradient differs, or one has a gradient where the other has
            none.
        ValueError: fewer than two variants, or variants that are modules with different parameters.
    """
    if len(variants) < 2:
        raise ValueError(f"agreement needs at least 2 variants, got {list(variants)}")
    if parameters is not None and not isinstance(parameters, nn.Module | Mapping):
        parameters = list(parameters)  # may be a generator, and every variant walks it
    reference, *others = variants
    wanted, wanted_gradients = _outputs_and_gradients(
        variants[reference], inputs, parameters, gradients, seed
    )
    if gradients and not any(gradient is not None for gradient in wanted_gradients.values()):
        raise ValueError(
            f"no gradient reaches any input or parameter of {reference!r}, so none can be "
            "compared: let an input require grad, give parameters, or pass gradients=False"
        )
    for name in others:
        got, got_gradients = _outputs_and_gradients(
            variants[name], inputs, parameters, gradients, seed
        )
        for kind, mine, theirs in (
            ("outputs", got, wanted),
            ("gradients", got_gradients, wanted_gradients),
        ):
            if mine.keys() != theirs.keys():
                raise ValueError(
                    f"the {kind} cannot be compared: only {name!r} has "
                    f"{sorted(mine.keys() - theirs.keys())}, only {reference!r} has "
                    f"{sorted(theirs.keys() - mine.keys())}; parameters that variants share go to "
                    "parameters="
                )
        for key, want in wanted.items():
            require_equal(5, got[key], want, _where(name, reference, key), atol=atol, rtol=rtol)
        for key, want_gradient in wanted_gradients.items():
            gradient, text = got_gradients[key], _where(name, reference, f"gradient of {key}")
            if (gradient is None) != (want_gradient is None):
                missing, present = (
                    (name, want_gradient) if gradient is None else (reference, gradient)
                )
                if present is not None and bool((present != 0).any()):
                    raise violation(
                        5,
                        f"{text(())}: {missing!r} has none, the other's reaches "
                        f"{float(present.abs().max()):.3g}",
                    )
            elif gradient is not None and want_gradient is not None:
                require_equal(5, gradient, want_gradient, text, atol=atol, rtol=rtol)


def check_backends_agree(
    make_output: Callable[..., Any],
    inputs: Inputs,
    *,
    backends: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Law 5 over backends: ``make_output(backend, *inputs)`` gives the same for each.

    Args:
        make_output: for instance ``lambda backend, x: graphformer.aggregate(graph, x,
            backend=backend)``.
        inputs: as in :func:`check_agreement`.
        backends: the reference first; those this installation has when left out.
        options: passed on to :func:`check_agreement`.
    """
    if backends is None:
        from graphformer import backends as installed

        backends = installed.available()
    check_agreement(
        {name: functools.partial(make_output, name) for name in backends}, inputs, **options
    )


def check_executors_agree(
    make_output: Callable[..., Any],
    inputs: Inputs,
    *,
    executors: Sequence[str] = ("dense", "stream"),
    **options: Any,
) -> None:
    """Law 5 over executors: ``make_output(executor, *inputs)`` gives the same for each.

    Args:
        make_output: for instance ``lambda executor, x: layers[executor](x)``, layers that share
            their parameters.
        inputs: as in :func:`check_agreement`.
        executors: the reference first. Not every executor can run every layer, so name those that
            can.
        options: passed on to :func:`check_agreement`.
    """
    check_agreement(
        {name: functools.partial(make_output, name) for name in executors}, inputs, **options
    )


def check_identity(
    adapted: Callable[..., Any],
    base: Callable[..., Any] | Any,
    *inputs: Any,
    atol: float = 0.0,
    rtol: float = 0.0,
    **kwargs: Any,
) -> None:
    """Law 8: a fresh adapter changes nothing, to the last bit unless ``atol`` allows more.

    Args:
        adapted: the model with its adapter, as first made.
        base: the model without it, or the outputs it gave; give outputs where the adapter is put
            into the base model itself.
        inputs, kwargs: what both are called with.

    Raises:
        LawViolation: an output differs.
    """
    with torch.no_grad():
        want = tensors_of(base(*inputs, **kwargs) if callable(base) else base)
        got = tensors_of(adapted(*inputs, **kwargs))
    if not want or got.keys() != want.keys():
        raise ValueError(
            f"the adapted model returned {sorted(got)}, the base model {sorted(want)}: they cannot "
            "be compared"
        )
    for key, value in want.items():

        def text(index: tuple[int, ...], key: str = key) -> str:
            return f"the adapter changes {key}" + (f" at index {index}" if index else "")

        require_equal(8, got[key], value, text, atol=atol, rtol=rtol)


def _where(name: str, reference: str, what: str) -> Callable[[tuple[int, ...]], str]:
    return lambda index: (
        f"{name!r} and {reference!r} differ in the {what}" + (f" at index {index}" if index else "")
    )


def _outputs_and_gradients(
    variant: Callable[..., Any],
    inputs: Inputs,
    parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | None,
    gradients: bool,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    leaves: dict[str, Tensor] = {}

    def fresh(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        copy = value.detach().clone().requires_grad_(value.requires_grad)
        if value.requires_grad:
            leaves[name] = copy
        return copy

    with torch.set_grad_enabled(gradients):
        if isinstance(inputs, Tensor):
            result = variant(fresh("input 0", inputs))
        elif isinstance(inputs, Mapping):
            result = variant(
                **{key: fresh(f"input {key!r}", value) for key, value in inputs.items()}
            )
        else:
            result = variant(*(fresh(f"input {i}", value) for i, value in enumerate(inputs)))
    outputs = tensors_of(result)
    if not outputs:
        raise TypeError(
            f"a variant returned {type(result).__name__}, which holds no floating tensors to "
            "compare"
        )
    if not gradients:
        return outputs, {}
    leaves.update(
        (f"parameter {key!r}", value)
        for key, value in _named(parameters, variant).items()
        if value.requires_grad
    )
    return outputs, gradients_of(list(outputs.values()), leaves, seed=seed)


def _named(
    parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | None,
    variant: Callable[..., Any],
) -> dict[str, Tensor]:
    if parameters is None:
        return dict(variant.named_parameters()) if isinstance(variant, nn.Module) else {}
    if isinstance(parameters, nn.Module):
        return dict(parameters.named_parameters())
    if isinstance(parameters, Mapping):
        return dict(parameters)
    return {str(i): value for i, value in enumerate(parameters)}
