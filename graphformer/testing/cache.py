"""Law 4: cached decoding equals the full forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import whole
from graphformer.testing.common import positions_of, require_equal, tolerance, violation


def check_cache(
    model: Callable[..., Any],
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    prefill: Sequence[int] | None = None,
    chunks: Sequence[int] = (1, 3),
    left_padding: int = 2,
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Law 4: a prefill, then a few tokens at a time from the cache, gives the logits of one full
    forward.

    The model is called the transformers way:
    ``model(input_ids=, attention_mask=, position_ids=, cache=, use_cache=)``, returning ``logits``
    ``[B, n, V]`` and ``cache``; both by its older name ``past_key_values`` where the model has that
    one. ``attention_mask`` covers cached and new tokens; it is not passed where nothing is padded.
    ``position_ids`` count real tokens and are passed where the model's ``forward`` names them.

    Args:
        model: a causal language model.
        input_ids: int64 ``[B, N]``, ``N >= 2``.
        attention_mask: ``[B, N]``, 1 at real tokens. When left out, the ids are tried whole, and
            again with the first ``left_padding * b`` tokens of sequence ``b`` masked, as
            ``generate`` pads a batch.
        prefill: sizes of the first call; 1, the half and ``N - 1`` when left out.
        chunks: how many tokens each later call brings.
        left_padding: see ``attention_mask``; 0 tries the whole ids only.

    Raises:
        LawViolation: cached and full logits differ at a real token.
        TypeError: the model returns no ``logits`` or no cache.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise ValueError(
            f"input_ids must be [B, N] with N >= 2, got shape {tuple(input_ids.shape)}"
        )
    batch, length = input_ids.shape
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, got "
            f"{tuple(attention_mask.shape)}"
        )
    if prefill is None:
        prefill = sorted({1, max(1, length // 2), length - 1})
    whole("left_padding", left_padding, 0)
    if (
        not prefill
        or not chunks
        or not all(0 < n < length for n in prefill)
        or not all(n > 0 for n in chunks)
    ):
        raise ValueError(
            f"prefill must lie in 1..{length - 1} and chunks must be positive, got {list(prefill)} "
            f"and {list(chunks)}"
        )

    masks = [attention_mask]
    if attention_mask is None and left_padding and batch > 1:
        first_real = (
            torch.arange(batch, device=input_ids.device).mul(left_padding).clamp(max=length - 1)
        )
        masks.append((torch.arange(length, device=input_ids.device) >= first_real[:, None]).long())
    for mask in masks:
        _check_one_mask(model, input_ids, mask, prefill, chunks, atol, rtol)


def _check_one_mask(
    model: Callable[..., Any],
    input_ids: Tensor,
    mask: Tensor | None,
    prefill: Sequence[int],
    chunks: Sequence[int],
    atol: float | None,
    rtol: float | None,
) -> None:
    length = input_ids.shape[1]
    keep = torch.ones_like(input_ids) if mask is None else mask
    names = inspect.signature(getattr(model, "forward", model)).parameters

    def call(start: int, stop: int, cache: Any, use_cache: bool) -> Any:
        inputs: dict[str, Any] = {"input_ids": input_ids[:, start:stop], "use_cache": use_cache}
        if mask is not None:
            inputs["attention_mask"] = mask[:, :stop]
        if "position_ids" in names:
            inputs["position_ids"] = positions_of(keep)[:, start:stop]
        if cache is not None:
            inputs["cache" if "cache" in names else "past_key_values"] = cache
        with torch.no_grad():
            output = model(**inputs)
        if getattr(output, "logits", None) is None:
            raise TypeError(f"the model must return logits, got {type(output).__name__}")
        if use_cache and _cache(output) is None:
            raise TypeError(
                "the model was called with use_cache=True and returned neither cache nor "
                "past_key_values"
            )
        return output

    full = call(0, length, None, use_cache=False).logits.clone()
    again = call(0, length, None, use_cache=False).logits
    if not torch.allclose(
        full, again, atol=tolerance(full.dtype), rtol=tolerance(full.dtype), equal_nan=True
    ):
        raise ValueError(
            "the model gives different outputs for the same input twice; call .eval() first "
            "(dropout?)"
        )
    for first in prefill:
        for chunk in chunks:
            start, stop, cache, calls = 0, first, None, 0
            while start < length:
                output = call(start, stop, cache, use_cache=True)
                cache = _cache(output)
                if output.logits.shape[:2] != (input_ids.shape[0], stop - start):
                    shape = tuple(output.logits.shape)
                    raise violation(
                        4,
                        f"{stop - start} tokens on a cache of {start} gave logits of shape {shape}",
                    )
                real = keep[:, start:stop].bool()[..., None]
                got, want = (
                    torch.where(real, output.logits, 0),
                    torch.where(real, full[:, start:stop], 0),
                )
                step = f"a prefill of {first}" + (
                    f", then call {calls} of {chunk} tokens each" if calls else ""
                )
                step += f" (cache of {start}{', padded batch' if mask is not None else ''})"

                def text(index: tuple[int, ...], start: int = start, step: str = step) -> str:
                    where = (
                        f" of token {start + index[1]} of {length} in sequence {index[0]}"
                        if index
                        else ""
                    )
                    return f"logits{where} differ from the full forward in {step}"

                require_equal(4, got, want, text, atol=atol, rtol=rtol)
                start, stop, calls = stop, min(stop + chunk, length), calls + 1


def _cache(output: Any) -> Any:
    """By its name since transformers 5.24, or by the one before."""
    return output.cache if hasattr(output, "cache") else getattr(output, "past_key_values", None)
