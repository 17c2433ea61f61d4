"""What the laws share: the error, the tolerance, the comparison, and inputs made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import number

LAWS: dict[int, str] = {
    1: "causal: changing token j changes no output before j",
    2: "independence: padding, batch mates and packed neighbours change nothing",
    3: "prefix: the first n outputs of a sequence are the outputs of its first n tokens",
    4: "cache: cached decoding equals the full forward",
    5: "agreement: backends and executors give the same outputs and gradients",
    6: "permutation: renumbering the nodes of a graph renumbers its outputs and changes nothing "
    "else",
    7: "disjoint: a node sees only the nodes whose messages can reach it",
    8: "identity: a fresh adapter changes nothing",
    9: "gradients: every parameter gets a finite gradient",
    10: "finite: no row, graph or mask makes a NaN",
    11: "slots: a slot value is one formula, on blocks and lists, row by row, saved and loaded",
    13: "threads: calls of several threads at once are answered as if each were alone",
    14: "second gradients: the gradient of a gradient is what finite differences say, or it is "
    "refused",
}
"""The laws by number. ``LawViolation.law`` is one of these numbers."""

# Absolute and relative at once. float16 and bfloat16: a few units in the last place of values near
# 1, times the depth of a small model.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class LawViolation(AssertionError):
    """A layer or model breaks a law.

    Attributes:
        law: number of the law, a key of :data:`LAWS`.
        difference: largest difference found, where the law compares numbers; otherwise None.
        tolerance: what was allowed there; otherwise None.
    """

    law: int
    difference: float | None
    tolerance: float | None


def violation(
    law: int, text: str, *, difference: float | None = None, allowed: float | None = None
) -> LawViolation:
    """The error for ``law``: its name, then ``text``."""
    error = LawViolation(f"law {law} ({LAWS[law]}) is broken: {text}")
    error.law, error.difference, error.tolerance = law, difference, allowed
    return error


def tolerance(dtype: torch.dtype) -> float:
    """The difference allowed, absolute and relative: float64 1e-9, float32 1e-5, float16 1e-2,
    bfloat16 5e-2.
    """
    return _TOLERANCE.get(dtype, 0.0)


# ---------------------------------------------------------------------- comparing


def require_equal(
    law: int,
    got: Tensor,
    want: Tensor,
    text: Callable[[tuple[int, ...]], str],
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Raise where ``|got - want| > atol + rtol max_row |want|``.

    Relative to the row (the last axis), not to the entry: rounding scales with the largest number
    of a sum, and an entry near 0 is what is left of it. A NaN on either side differs, equal
    infinities do not. ``text`` gets the index of the worst entry and says in words what it is.
    Left-out tolerances come from the coarser dtype of the two.
    """
    if got.shape != want.shape:
        raise violation(
            law, f"{text(())}: the shape is {tuple(got.shape)}, expected {tuple(want.shape)}"
        )
    if not want.numel():
        return
    default = max(tolerance(got.dtype), tolerance(want.dtype))
    atol, rtol = default if atol is None else atol, default if rtol is None else rtol
    number("atol", atol, least=0.0)
    number("rtol", rtol, least=0.0)
    got, want = got.detach(), want.detach().to(got.device)
    exact_got, exact_want = got.double(), want.double()
    difference = torch.where(exact_got == exact_want, 0.0, (exact_got - exact_want).abs())
    allowed = torch.where(exact_want.isfinite(), atol + rtol * row_scale(exact_want), 0.0)
    excess = torch.where(
        difference <= allowed, 0.0, (difference - allowed).nan_to_num(nan=torch.inf)
    )
    worst = int(excess.argmax())
    if excess.flatten()[worst] == 0:
        return
    index = (
        tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), got.shape))
        if got.ndim
        else ()
    )
    count = int((excess > 0).sum())
    difference_there, allowed_there = float(difference[index]), float(allowed[index])
    raise violation(
        law,
        f"{text(index)}: got {float(got[index]):.6g}, expected {float(want[index]):.6g}, "
        f"difference {difference_there:.3g} > {allowed_there:.3g} (atol {atol:.3g} + rtol "
        f"{rtol:.3g} * |expected| of its row); {count} of {got.numel()} entries differ",
        difference=difference_there,
        allowed=allowed_there,
    )


def differs(
    got: Tensor, want: Tensor, *, atol: float | None = None, rtol: float | None = None
) -> bool:
    """Whether any entry differs by more than the tolerance."""
    default = max(tolerance(got.dtype), tolerance(want.dtype))
    atol, rtol = default if atol is None else atol, default if rtol is None else rtol
    got, want = got.double(), want.double()
    return not bool(((got - want).abs() <= atol + rtol * row_scale(want)).all())


def row_scale(want: Tensor) -> Tensor:
    """The largest finite magnitude of each row (the last axis), kept as an axis of 1; of a scalar
    its own.
    """
    size = want.abs().masked_fill(~want.isfinite(), 0.0)
    return size.amax(-1, keepdim=True) if want.ndim and want.numel() else size


# ---------------------------------------------------------------------- calling


def output_of(result: Any) -> Tensor:
    """The tensor a check looks at: the result itself, the first of a tuple, or ``logits``,
    ``prediction`` or ``last_hidden_state``.
    """
    if isinstance(result, Tensor):
        return result
    for name in ("logits", "prediction", "last_hidden_state"):
        value = getattr(result, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
        return result[0]
    raise TypeError(
        f"the layer returned {type(result).__name__}; a check needs a tensor, a tuple that starts "
        "with one, or an object with logits, prediction or last_hidden_state. Wrap the layer in a "
        "function that returns the tensor"
    )


def tensors_of(result: Any, name: str = "output") -> dict[str, Tensor]:
    """Every floating tensor inside ``result`` (tensors, tuples, lists, mappings), under names such
    as ``output[0]``.
    """
    if isinstance(result, Tensor):
        return {name: result} if result.is_floating_point() else {}
    if isinstance(result, Mapping):
        items = [(f"{name}[{key!r}]", value) for key, value in result.items()]
    elif isinstance(result, tuple | list):
        items = [(f"{name}[{i}]", value) for i, value in enumerate(result)]
    else:
        return {}
    return {
        key: tensor for inner, value in items for key, tensor in tensors_of(value, inner).items()
    }


def run(layer: Callable[..., Any], *inputs: Any) -> Tensor:
    """``layer(*inputs)`` without gradients, as one tensor of its own (a layer may return a buffer
    it writes to again).
    """
    with torch.no_grad():
        return output_of(layer(*inputs)).clone()


def run_steadily(layer: Callable[..., Any], *inputs: Any) -> Tensor:
    """:func:`run`, twice: a layer that answers differently the second time can neither keep nor
    break a law.

    Raises:
        ValueError: the two answers differ.
    """
    first, second = run(layer, *inputs), run(layer, *inputs)
    if first.shape != second.shape or not torch.allclose(
        first, second, atol=tolerance(first.dtype), rtol=tolerance(first.dtype), equal_nan=True
    ):
        raise ValueError(
            "the layer gives different outputs for the same input twice; call .eval() first "
            "(dropout?), or fix its random numbers"
        )
    return first


def sequence_axis(x: Tensor, name: str = "x") -> None:
    """Refuse what is not ``[B, N]`` token ids or ``[B, N, ...]`` hidden states."""
    if x.ndim < 2 or (x.is_floating_point() and x.ndim < 3):
        raise ValueError(
            f"{name} must be hidden states [B, N, D] or token ids [B, N], got shape "
            f"{tuple(x.shape)} of {x.dtype}"
        )


def sequence_output(output: Tensor, x: Tensor) -> Tensor:
    """``output`` if it is ``[B, N, ...]`` like ``x``."""
    if output.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"the layer must return [B, N, ...] with B, N = {tuple(x.shape[:2])}, got shape "
            f"{tuple(output.shape)}"
        )
    return output


def gradients_of(
    outputs: Sequence[Tensor], leaves: Mapping[str, Tensor], *, seed: int = 0
) -> dict[str, Tensor | None]:
    """Gradients at ``leaves`` of a fixed random weighting of ``outputs``; ``.grad`` of the leaves
    is left as it was.

    Random and of either sign, because the gradient of a plain sum is 0 wherever a softmax or a norm
    sums to a constant. Through ``backward``, not ``autograd.grad``, so that recomputing executors
    run the way they run in training.
    """
    cotangents = [
        normal(output.shape, output.dtype, output.device, seed=seed + i)
        for i, output in enumerate(outputs)
    ]
    saved = {name: leaf.grad for name, leaf in leaves.items()}
    try:
        for leaf in leaves.values():
            leaf.grad = None
        differentiable = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if output.requires_grad
        ]
        if differentiable:
            torch.autograd.backward(
                [output for output, _ in differentiable],
                [cotangent for _, cotangent in differentiable],
            )
        return {name: leaf.grad for name, leaf in leaves.items()}
    finally:
        for name, leaf in leaves.items():
            leaf.grad = saved[name]


# ---------------------------------------------------------------------- inputs


def normal(
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    seed: int,
) -> Tensor:
    """Normal numbers that depend on ``seed`` and ``shape`` only, on every device; of torch's
    default dtype unless given.
    """
    values = torch.randn(
        tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return values.to(device=device, dtype=torch.get_default_dtype() if dtype is None else dtype)


def hidden_states(
    hidden_size: int,
    *,
    batch: int = 3,
    length: int = 11,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Tensor:
    """Hidden states ``[batch, length, hidden_size]`` from a seed. The default sizes are co-prime,
    so that a swapped axis fails.
    """
    return normal((batch, length, hidden_size), dtype, seed=seed)


def token_ids(vocab_size: int, *, batch: int = 2, length: int = 11, seed: int = 0) -> Tensor:
    """Token ids int64 ``[batch, length]`` from a seed."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def positions_of(keep: Tensor) -> Tensor:
    """Position ids ``[B, N]`` that count real tokens only: 0 at the first real token, whatever
    padding precedes it.

    For layers with positions in :func:`check_padding`:
    ``lambda x, keep: layer(x, attention_mask=keep, position_ids=positions_of(keep))``.
    """
    return (keep.long().cumsum(-1) - 1).clamp(min=0)


def other_values(
    x: Tensor, *, vocab_size: int | None = None, scale: float = 1.0, seed: int
) -> Tensor:
    """Values of the shape and dtype of ``x``, none of them equal to it: fresh normals, or other
    token ids.

    Args:
        x: hidden states (floating) or token ids (integer).
        vocab_size: ids come from ``0..vocab_size - 1``; the largest id of ``x``, plus one, when
            left out.
        scale: multiple of the spread of ``x``.
    """
    if x.is_floating_point():
        spread = float(x.double().std()) if x.numel() > 1 else 1.0
        return x + normal(x.shape, x.dtype, x.device, seed=seed) * scale * (spread or 1.0)
    size = int(x.max()) + 1 if vocab_size is None else vocab_size
    if size < 2:
        raise ValueError(
            f"changing a token needs a vocabulary of at least 2, but the ids allow {size}; give "
            "vocab_size"
        )
    shift = torch.randint(
        1, size, tuple(x.shape), generator=torch.Generator().manual_seed(seed)
    ).to(x.device)
    return (x + shift) % size
