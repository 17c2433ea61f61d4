"""Laws 1 and 3: no token sees a later one, and none sees how long its sequence is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import strict_flags, whole
from graphformer.testing.common import (
    differs,
    other_values,
    require_equal,
    run,
    run_steadily,
    sequence_axis,
    sequence_output,
    violation,
)


@strict_flags
def check_causal(
    layer: Callable[[Tensor], Any],
    x: Tensor,
    *,
    positions: Sequence[int] | None = None,
    num_positions: int = 5,
    expect_change: bool = True,
    vocab_size: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 1: changing token ``j`` changes no output before ``j``.

    Args:
        layer: ``[B, N, D] -> [B, N, D']``, or a model ``[B, N]`` ids ``-> [B, N, V]`` (its
            ``logits`` are looked at).
        x: hidden states ``[B, N, D]`` or token ids ``[B, N]``.
        positions: the tokens ``j`` to change, each in a run of its own; negative ones count from
            the end.
        num_positions: how many to change when ``positions`` is left out, evenly spread from the
            first to the last.
        expect_change: also require that some output at or after ``j`` changes; without it a
            constant layer passes.
        vocab_size: for token ids, what a changed id is drawn from.
        atol, rtol: by dtype when left out, see :func:`tolerance`.

    Raises:
        LawViolation: an output before ``j`` changed, or none at or after it did.
        ValueError: shapes do not fit, or the layer is not deterministic.
    """
    sequence_axis(x)
    length = x.shape[1]
    if positions is None:
        whole("num_positions", num_positions)
        positions = sorted(
            {int(j) for j in torch.linspace(0, length - 1, min(num_positions, length)).round()}
        )
    elif not all(-length <= j < length for j in positions):
        raise ValueError(
            f"positions must lie in {-length}..{length - 1} for a sequence of {length} tokens, got "
            f"{list(positions)}"
        )
    want = sequence_output(run_steadily(layer, x), x)
    others = other_values(x, vocab_size=vocab_size, seed=seed)
    for j in (j % length for j in positions):
        changed = x.clone()
        changed[:, j] = others[:, j]
        got = sequence_output(run(layer, changed), x)

        def text(index: tuple[int, ...], j: int = j) -> str:
            return (
                f"changing token {j} of {length} changed {_outputs(index)}, which comes before it"
            )

        require_equal(1, got[:, :j], want[:, :j], text, atol=atol, rtol=rtol)
        if expect_change and not differs(got[:, j:], want[:, j:], atol=atol, rtol=rtol):
            raise violation(
                1,
                f"changing token {j} of {length} changed no output at all, so nothing was tested; "
                "a layer that ignores its input? If that is meant, pass expect_change=False",
            )


def check_prefix(
    layer: Callable[[Tensor], Any],
    x: Tensor,
    *,
    lengths: Sequence[int] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Law 3: the first ``n`` outputs of a long sequence are the outputs of its first ``n`` tokens.

    Stronger than causal in one way: a layer that divides by the total length is causal and fails
    here.

    Args:
        layer: ``[B, N, D] -> [B, N, D']`` for every ``N``, or a model of token ids ``[B, N]``.
        x: hidden states ``[B, N, D]`` or token ids ``[B, N]``.
        lengths: the prefixes ``n`` to run; 1, 2, the half and ``N - 1`` when left out.

    Raises:
        LawViolation: an output depends on what follows it or on the length.
    """
    sequence_axis(x)
    total = x.shape[1]
    if lengths is None:
        lengths = sorted({n for n in (1, 2, total // 2, total - 1) if 0 < n < total})
    if not lengths or not all(0 < n <= total for n in lengths):
        raise ValueError(
            f"lengths must be prefixes 1..{total} of a sequence of {total} tokens, got "
            f"{list(lengths)}"
        )
    whole = sequence_output(run_steadily(layer, x), x)
    for n in lengths:
        prefix = sequence_output(run(layer, x[:, :n]), x[:, :n])

        def text(index: tuple[int, ...], n: int = n) -> str:
            return f"{_outputs(index)} of {total} tokens is not that of the first {n} tokens alone"

        require_equal(3, whole[:, :n], prefix, text, atol=atol, rtol=rtol)


def _outputs(index: tuple[int, ...]) -> str:
    if not index:
        return "the outputs"
    return f"output {index[1]} of sequence {index[0]} (index {index})"
