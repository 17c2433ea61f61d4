"""Law 10: no row, graph or mask makes a NaN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags
from graphformer.testing.common import gradients_of, normal, tensors_of, violation
from graphformer.testing.graphs import random_graph


@strict_flags
def check_finite(
    module: Callable[..., Any],
    cases: Mapping[str, Sequence[Any]] | Sequence[Any] | Tensor,
    *,
    call: Callable[..., Any] | None = None,
    gradients: bool = True,
    extreme: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
) -> None:
    """Law 10: outputs, and gradients at inputs and parameters, are finite.

    Args:
        module: a module or function. A module whose parameters have another floating dtype than a
            case's input is copied to that dtype.
        cases: the positional arguments of one call, or many by name, such as
            :func:`hostile_inputs`.
        call: ``call(module, *arguments)``, where that is not ``module(*arguments)``:
            ``lambda layer, x, keep: layer(x, attention_mask=keep)``.
        gradients: look at gradients too.
        extreme: for parameters whose names end so, values to set them to, one after the other, on a
            copy: ``{"alpha": (1e-3, 0.0, 50.0)}``. Every case is run with each.

    Raises:
        LawViolation: names the case, and where the first number is that is not finite.
        ValueError: an ``extreme`` fits no parameter.
    """
    if isinstance(cases, Tensor):
        cases = {"the input": (cases,)}
    elif not isinstance(cases, Mapping):
        cases = {"the input": tuple(cases)}
    for label, variant in _variants(module, extreme or {}):
        for case, arguments in cases.items():
            _check_case(variant, call, f"{case}{label}", arguments, gradients, seed)


def hostile_inputs(
    hidden_size: int,
    *,
    batch: int = 3,
    length: int = 7,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float16, torch.bfloat16),
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Awkward inputs for :func:`check_finite`: name -> (``x`` ``[B, N, hidden_size]``, ``keep``
    int64 ``[B, N]``).

    One token; left and right padding; sequences that are padding throughout; equal tokens (ties);
    all zeros; tiny and huge values (16 times normal in float16, whose largest number is 65504; 1000
    times in the others).
    """
    cases: dict[str, tuple[Tensor, Tensor]] = {}
    for dtype in dtypes:
        x = normal((batch, length, hidden_size), dtype, seed=seed)
        all_real = torch.ones(batch, length, dtype=torch.long)
        place, first = torch.arange(length), torch.arange(batch)[:, None].clamp(max=length - 1)
        one_masked = all_real.clone()
        one_masked[-1] = 0
        kind = str(dtype).removeprefix("torch.")
        cases |= {
            f"one token, {kind}": (x[:, :1], all_real[:, :1]),
            f"left padding, {kind}": (x, (place >= first).long()),
            f"right padding, {kind}": (x, (place < length - first).long()),
            f"one sequence fully masked, {kind}": (x, one_masked),
            f"everything masked, {kind}": (x, torch.zeros_like(all_real)),
            f"equal tokens, {kind}": (x[:, :1].expand(-1, length, -1).clone(), all_real),
            f"zeros, {kind}": (torch.zeros_like(x), all_real),
            f"tiny values, {kind}": (x * 1e-4, all_real),
            f"huge values, {kind}": (x * (16 if dtype == torch.float16 else 1000), all_real),
        }
    return {name: (x.to(device), keep.to(device)) for name, (x, keep) in cases.items()}


def hostile_graphs(
    node_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Awkward graphs for :func:`check_finite`: name -> (``x``, ``senders``, ``receivers``,
    ``batch``).

    No node; one node; no edges; isolated nodes beside joined ones; self-loops only; the same edge
    twice; equal features; huge features; a batch in which one graph has no edges.
    """
    graph = random_graph(7, 11, node_dim, dtype=dtype, seed=seed)
    x, senders, receivers = graph.x, graph.senders, graph.receivers
    none, one_graph = senders[:0], torch.zeros(7, dtype=torch.long)
    few = (senders < 3) & (receivers < 3)
    cases = {
        "no node": (x[:0], none, none, one_graph[:0]),
        "one node": (x[:1], none, none, one_graph[:1]),
        "no edges": (x, none, none, one_graph),
        "isolated nodes": (x, senders[few], receivers[few], one_graph),
        "self-loops only": (x, torch.arange(7), torch.arange(7), one_graph),
        "edges twice": (x, senders.repeat(2), receivers.repeat(2), one_graph),
        "equal features": (x[:1].expand(7, -1).clone(), senders, receivers, one_graph),
        "zeros": (torch.zeros_like(x), senders, receivers, one_graph),
        "huge features": (
            x * (16 if dtype == torch.float16 else 1000),
            senders,
            receivers,
            one_graph,
        ),
        "a graph without edges": (
            torch.cat((x, x[:2])),
            senders,
            receivers,
            torch.tensor([0] * 7 + [1, 1]),
        ),
    }
    return {name: tuple(tensor.to(device) for tensor in case) for name, case in cases.items()}  # type: ignore[misc]


def _variants(
    module: Callable[..., Any], extreme: Mapping[str, Sequence[float]]
) -> list[tuple[str, Callable[..., Any]]]:
    variants = [("", module)]
    for end, values in extreme.items():
        parameters = dict(module.named_parameters()) if isinstance(module, nn.Module) else {}
        if not any(name.endswith(end) for name in parameters):
            raise ValueError(
                f"extreme names {end!r}, but no parameter's name ends so; there are: "
                f"{', '.join(parameters) or 'none'}"
            )
        for value in values:
            changed = copy.deepcopy(module)
            with torch.no_grad():
                for name, parameter in changed.named_parameters():  # type: ignore[attr-defined]
                    if name.endswith(end):
                        parameter.fill_(value)
            variants.append((f", {end} = {value:g}", changed))
    return variants


def _check_case(
    module: Callable[..., Any],
    call: Callable[..., Any] | None,
    case: str,
    arguments: Sequence[Any],
    gradients: bool,
    seed: int,
) -> None:
    dtype = next(
        (a.dtype for a in arguments if isinstance(a, Tensor) and a.is_floating_point()), None
    )
    if (
        isinstance(module, nn.Module)
        and dtype is not None
        and any(p.is_floating_point() and p.dtype != dtype for p in module.parameters())
    ):
        module = copy.deepcopy(module).to(dtype)
    leaves: dict[str, Tensor] = {}
    fresh = []
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.is_floating_point():
            argument = argument.detach().clone().requires_grad_(gradients)
            leaves[f"input {i}"] = argument
        fresh.append(argument)
    if isinstance(module, nn.Module):
        leaves |= {
            f"parameter {name!r}": p for name, p in module.named_parameters() if p.requires_grad
        }
    with torch.set_grad_enabled(gradients):
        outputs = tensors_of(module(*fresh) if call is None else call(module, *fresh))
    if not outputs:
        raise TypeError(f"case {case!r}: the module returned no floating tensor to look at")
    for name, output in outputs.items():
        _require_finite(output, f"case {case!r}: {name}")
    if gradients:
        for name, gradient in gradients_of(list(outputs.values()), leaves, seed=seed).items():
            if gradient is not None:
                _require_finite(gradient, f"case {case!r}: the gradient of {name}")


def _require_finite(value: Tensor, what: str) -> None:
    bad = (~value.detach().isfinite()).nonzero()
    if len(bad):
        index = tuple(bad[0].tolist())
        raise violation(
            10,
            f"{what} holds {len(bad)} of {value.numel()} numbers that are not finite, "
            f"first {float(value.detach()[index])} at index {index}",
        )
