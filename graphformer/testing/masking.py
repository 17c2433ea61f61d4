"""Law 2: padding, batch mates and packed neighbours change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import whole
from graphformer.testing.common import (
    other_values,
    require_equal,
    run,
    run_steadily,
    sequence_axis,
    sequence_output,
)


def check_padding(
    layer: Callable[[Tensor, Tensor], Any],
    x: Tensor,
    *,
    lengths: Sequence[int] | None = None,
    padding: int = 3,
    sides: Sequence[str] = ("left", "right"),
    scale: float = 10.0,
    vocab_size: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 2: a padded sequence gives, at its real tokens, what it gives alone and unpadded.

    Args:
        layer: called as ``layer(x, keep)`` with ``keep`` int64 ``[B, N]``, 1 at real tokens. Where
            the mask has another form or name, or the layer has positions, say so in a function:
            ``lambda x, keep: model(input_ids=x, attention_mask=keep,
            position_ids=positions_of(keep))``.
        x: hidden states ``[B, N, D]`` or token ids ``[B, N]``; sequence ``b`` is its first
            ``lengths[b]`` tokens.
        lengths: real tokens of each sequence; when left out ``N, N - 2, N - 4, ...``, at least 1.
        padding: padded places beside the longest sequence, so that every row is padded.
        sides: which of ``left`` and ``right`` to pad.
        scale: how far the garbage in the padded places lies from ``x``, in multiples of its spread
            (hidden states).
        vocab_size: for token ids, what the garbage is drawn from.

    Raises:
        LawViolation: padding changed an output at a real token.
    """
    sequence_axis(x)
    batch, total = x.shape[:2]
    whole("padding", padding, 0)
    if lengths is None:
        lengths = [max(1, total - 2 * b) for b in range(batch)]
    if len(lengths) != batch or not all(0 < n <= total for n in lengths):
        raise ValueError(
            f"lengths must be {batch} numbers (one a sequence) in 1..{total}, got {list(lengths)}"
        )
    if unknown := set(sides) - {"left", "right"}:
        raise ValueError(f"sides must be among 'left' and 'right', got {sorted(unknown)}")
    alone = [
        run_steadily(layer, x[b : b + 1, :n], torch.ones(1, n, dtype=torch.long, device=x.device))
        for b, n in enumerate(lengths)
    ]
    wide = torch.cat((x, x.new_zeros((batch, padding, *x.shape[2:]))), dim=1)
    garbage = other_values(wide, vocab_size=vocab_size, scale=scale, seed=seed)
    for side in sides:
        padded, keep = (
            garbage.clone(),
            torch.zeros(wide.shape[:2], dtype=torch.long, device=x.device),
        )
        real = [slice(0, n) if side == "right" else slice(wide.shape[1] - n, None) for n in lengths]
        for b, n in enumerate(lengths):
            padded[b, real[b]], keep[b, real[b]] = x[b, :n], 1
        got = sequence_output(run(layer, padded, keep), padded)
        for b, n in enumerate(lengths):

            def text(index: tuple[int, ...], b: int = b, n: int = n, side: str = side) -> str:
                where = (
                    f"real token {index[0]} of {n} in sequence {b}" if index else f"sequence {b}"
                )
                return f"{side} padding to {wide.shape[1]} places changed the output of {where}"

            require_equal(2, got[b, real[b]], alone[b][0], text, atol=atol, rtol=rtol)


def check_batch_independence(
    layer: Callable[[Tensor], Any],
    x: Tensor,
    *,
    vocab_size: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 2: batch mates change nothing. Each sequence is run alone, and among other mates.

    Args:
        layer: ``[B, N, D] -> [B, N, D']`` for every ``B``, or a model of token ids ``[B, N]``.
        x: hidden states ``[B, N, D]`` or token ids ``[B, N]``, with ``B >= 2``.

    Raises:
        LawViolation: an output depends on another sequence of the batch.
    """
    sequence_axis(x)
    if x.shape[0] < 2:
        raise ValueError(
            f"batch independence needs at least 2 sequences, got x of shape {tuple(x.shape)}"
        )
    together = run_steadily(layer, x)
    others = other_values(x, vocab_size=vocab_size, scale=10.0, seed=seed)
    for b in range(x.shape[0]):
        mates = others.clone()
        mates[b] = x[b]
        for what, got in (
            ("running it alone", run(layer, x[b : b + 1])[0]),
            ("changing its batch mates", run(layer, mates)[b]),
        ):

            def text(index: tuple[int, ...], b: int = b, what: str = what) -> str:
                return f"{what} changed the output of sequence {b}" + (
                    f" at index {index}" if index else ""
                )

            require_equal(2, got, together[b], text, atol=atol, rtol=rtol)


def check_packing(
    packed: Callable[[Tensor, Tensor], Any],
    sequences: Sequence[Tensor],
    *,
    alone: Callable[[Tensor], Any] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Law 2: sequences packed one after the other into one row do not see each other.

    Args:
        packed: called as ``packed(x, position_ids)`` with ``x`` ``[1, N1 + N2 + ..., D]`` (or ids
            ``[1, N1 + N2 + ...]``) and ``position_ids`` int64 ``[1, N1 + N2 + ...]``, which start
            again at 0 with each sequence.
        sequences: ``[N1, D]``, ``[N2, D]``, ... or ids ``[N1]``, ``[N2]``, ..., at least two.
        alone: how one sequence ``[1, Ni, D]`` is run by itself; ``packed`` with positions from 0
            when left out.

    Raises:
        LawViolation: an output depends on a packed neighbour.
    """
    if len(sequences) < 2:
        raise ValueError(f"packing needs at least 2 sequences, got {len(sequences)}")

    def counting(length: int) -> Tensor:
        return torch.arange(length, device=sequences[0].device)

    wanted = [
        run_steadily(packed, s[None], counting(len(s))[None])[0]
        if alone is None
        else run_steadily(alone, s[None])[0]
        for s in sequences
    ]
    for order in (range(len(sequences)), range(len(sequences) - 1, -1, -1)):
        x = torch.cat([sequences[i] for i in order])[None]
        got = sequence_output(
            run(packed, x, torch.cat([counting(len(sequences[i])) for i in order])[None]), x
        )[0]
        start = 0
        for place, i in enumerate(order):
            n = len(sequences[i])

            def text(index: tuple[int, ...], i: int = i, n: int = n, place: int = place) -> str:
                where = f"token {index[0]} of {n} in sequence {i}" if index else f"sequence {i}"
                return (
                    f"packing changed the output of {where} (packed as number {place + 1} of "
                    f"{len(sequences)})"
                )

            require_equal(2, got[start : start + n], wanted[i], text, atol=atol, rtol=rtol)
            start += n
