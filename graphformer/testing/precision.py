"""Law 5 in low precision: a fast form loses no more than the readable one does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags
from graphformer.testing.common import gradients_of, output_of, row_scale, violation

Call = Callable[[Any], Any]


def rounding_loss(module: nn.Module, call: Call, *, dtype: torch.dtype = torch.float32) -> float:
    r"""What a module loses in ``dtype`` against itself in float64, relative to the row.

    .. math:: \max_i \frac{\max_c |y_{ic} - y^{64}_{ic}|}{\max_c |y^{64}_{ic}|}

    over the rows ``i`` (all axes but the last) of the output. Two ways of computing the same thing
    differ by a small multiple of it on every processor, so it makes an honest ``rtol`` of a law in
    single precision: ``check_padding(model, ids, atol=0, rtol=8 * rounding_loss(model, call))``.

    Args:
        module: in any precision; copies of it are cast.
        call: what it is asked, a function of the module that returns what a law looks at (a tensor,
            a tuple that starts with one, or an object with logits). It casts its own inputs:
            ``lambda m: m(x.to(next(m.parameters()).dtype))``.
        dtype: the precision that is judged.

    Raises:
        ValueError: the float64 output is not finite, so nothing can be measured.
    """
    exact, rounded = _answers(module, call, torch.float64), _answers(module, call, dtype)
    return _loss(rounded, exact)


@strict_flags
def check_precision(
    module: nn.Module,
    call: Call,
    *,
    twin: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    factor: float = 8.0,
    gradients: bool = True,
    seed: int = 0,
) -> None:
    r"""Law 5 in ``dtype``: a module loses at most ``factor`` times what its naive twin loses there.

    .. math::
        \max_c |y_{ic} - y^{64}_{ic}| \le C \,(\ell + \epsilon)\, \max_c |y^{64}_{ic}|

    for every row ``i``, where :math:`y^{64}` is the twin in float64, :math:`\ell` the twin's
    :func:`rounding_loss` and :math:`\epsilon` the unit of ``dtype``. The same for the gradient of
    each parameter, whose whole tensor counts as one row: a sum over tokens cancels where it likes.

    Args:
        module, call, dtype: as in :func:`rounding_loss`.
        twin: a module with the same parameters that computes the readable way, for instance
            with ``executor="dense"``. The module itself when left out.
        factor: C.
        gradients: compare those of a fixed random weighting of the output, too.

    Raises:
        LawViolation: the module loses more.
    """
    twin = module if twin is None else twin
    unit = torch.finfo(dtype).eps
    exact, naive, got = (
        _answers(one, call, precision, gradients=gradients, seed=seed)
        for one, precision in ((twin, torch.float64), (twin, dtype), (module, dtype))
    )
    losses = {name: _loss({name: naive[name]}, {name: want}) for name, want in exact.items()}
    for name, want in exact.items():
        if name not in got:
            raise violation(5, f"{name}: the twin has a gradient there and the module has none")
        # What a single number lost is chance: there the largest loss of all answers counts.
        loss = losses[name] if want.numel() > 1 else max(losses.values())
        allowed = factor * (loss + unit)
        lost = _relative(got[name], want)
        if not bool((lost <= allowed).all()):  # NaN is refused, too
            worst = float(lost.nan_to_num(torch.inf).max())
            raise violation(
                5,
                f"{name} in {dtype} is off by {worst:.3g} of its row; the twin's own rounding "
                f"allows {allowed:.3g} ({factor:g} times its loss)",
                difference=worst,
                allowed=allowed,
            )


def _answers(
    module: nn.Module, call: Call, dtype: torch.dtype, *, gradients: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """The output, and the gradient of every parameter as one row each."""
    module = copy.deepcopy(module).to(dtype)
    with torch.set_grad_enabled(gradients):
        out = output_of(call(module))
    answers = {"the output": out.detach().double()}
    if gradients:
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        for name, gradient in gradients_of([out], trained, seed=seed).items():
            if gradient is not None:
                answers[f"the gradient of {name}"] = gradient.detach().double().flatten()
    return answers


def _relative(got: Tensor, want: Tensor) -> Tensor:
    """The largest difference of each row, in units of the row's largest number."""
    if got.shape != want.shape:
        raise violation(5, f"the shape is {tuple(got.shape)}, expected {tuple(want.shape)}")
    if not want.numel():
        return want.new_zeros(())
    if not bool(want.isfinite().all()):
        raise ValueError(
            "the output in float64 is not finite, so no loss of precision can be measured"
        )
    # A row that cancels to almost nothing has lost its own scale.
    scale = row_scale(want).clamp(min=float(want.abs().max()) * 1e-3 or 1.0)
    return (got - want).abs().div(scale)


def _loss(rounded: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    return max(float(_relative(rounded[name], want).max()) for name, want in exact.items())
