"""What a layer or an adapter remembers of past tokens while a model decodes, kept in the model's
own cache.

In decoding a new token receives messages from tokens that are gone, so their features must be kept
like their keys. They are kept in the cache's layers, which thereby reorder, crop, repeat and forget
them together with the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)


@dataclass
class Memory:
    """What one adapter, or one step of a layer, sent in one layer.

    Attributes:
        parts: for each depth ``[B, ..., N, hidden_dim]``, the last ``N`` tokens.
        seen: how many tokens there were in all.
        rows: bool ``[B]``, which rows the adapter was for; None for all.
        own_length: whether the parts hold as many tokens as their owner wants, not as the keys.
    """

    parts: list[Tensor]
    seen: int
    rows: Tensor | None = None
    own_length: bool = False

    def apply(self, change: Callable[[Tensor], Tensor], rows: bool = False) -> None:
        """Change what is kept; ``rows``: also which rows it is for."""
        self.parts = [change(part) for part in self.parts]
        if rows and self.rows is not None:
            self.rows = change(self.rows)


class _Remembers:
    """Mixed into a cache layer; ``memories`` holds one :class:`Memory` an adapter or step."""

    # so that transformers does not take it for the layer of some model
    _layer_type: str | None = None
    memories: dict[Hashable, Memory]
    keys: Tensor | None

    def _all(self, change: Callable[[Tensor], Tensor], rows: bool = False) -> None:
        for memory in self.memories.values():
            memory.apply(change, rows)

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self.memories.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._all(lambda part: part.index_select(0, beam_idx.to(part.device)), rows=True)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._all(lambda part: part.repeat_interleave(repeats, dim=0), rows=True)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._all(lambda part: part[indices.to(part.device)], rows=True)

    def crop(self, *args: Any, **kwargs: Any) -> None:
        before = self.get_seq_length()  # type: ignore[attr-defined]
        super().crop(*args, **kwargs)  # type: ignore[misc]
        gone = before - self.get_seq_length()  # type: ignore[attr-defined]
        for memory in self.memories.values():
            memory.seen -= gone
            kept = (lambda part: part) if memory.own_length else self._as_long_as_keys
            memory.apply(
                lambda part, kept=kept: kept(part[..., : max(part.shape[-2] - gone, 0), :])  # type: ignore[misc]
            )

    def offload(self) -> None:
        super().offload()  # type: ignore[misc]
        self._all(lambda part: part.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        super().prefetch()  # type: ignore[misc]
        self._all(lambda part: part.to(self.device, non_blocking=True))  # type: ignore[attr-defined]

    def _as_long_as_keys(self, part: Tensor) -> Tensor:
        kept = 0 if self.keys is None else self.keys.shape[-2]
        return part[..., max(part.shape[-2] - kept, 0) :, :]

    def store(
        self, adapter: Hashable, parts: list[Tensor], rows: Tensor | None, batch: int
    ) -> None:
        """The features of all tokens that the last call saw, cut to what the keys are cut to;
        ``rows`` (int64): those of ``batch`` rows.
        """
        seen = int(self.get_seq_length())  # type: ignore[attr-defined]
        parts = [self._as_long_as_keys(part) for part in parts]
        known = None
        if rows is not None:
            parts = [
                part.new_zeros(batch, *part.shape[1:]).index_copy(0, rows, part) for part in parts
            ]
            known = torch.zeros(batch, dtype=torch.bool, device=rows.device).index_fill(
                0, rows, True
            )
        self.memories[adapter] = Memory(parts, seen, known)


class RememberingLayer(_Remembers, DynamicLayer):
    """A cache layer that grows."""


class RememberingSlidingWindowLayer(_Remembers, DynamicSlidingWindowLayer):
    """A cache layer that holds the last tokens of a window."""


class RememberingStaticLayer(_Remembers, StaticLayer):
    """A cache layer of fixed length; what is remembered grows beside it."""


class RememberingStaticSlidingWindowLayer(_Remembers, StaticSlidingWindowLayer):
    """A cache layer that holds the last tokens of a window in a fixed place."""


_KINDS: dict[type, type[_Remembers]] = {
    DynamicLayer: RememberingLayer,
    DynamicSlidingWindowLayer: RememberingSlidingWindowLayer,
}
_STATIC: dict[type, type[_Remembers]] = {
    StaticLayer: RememberingStaticLayer,
    StaticSlidingWindowLayer: RememberingStaticSlidingWindowLayer,
}


def find_cache(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cache | None:
    """The cache among a module's arguments."""
    for value in (*kwargs.values(), *args):
        if isinstance(value, EncoderDecoderCache):
            return value.self_attention_cache
        if isinstance(value, Cache):
            return value
    return None


def remembering(
    cache: Cache,
    index: int,
    who: str = "a Sparse-GIN adapter keeps its tokens",
    *,
    static: bool = False,
) -> _Remembers:
    """Layer ``index`` of a cache, from now on with room for memories; ``who`` says whose.

    Args:
        static: whether layers of fixed length will do, which hand out their empty places too.

    Raises:
        NotImplementedError: a kind of cache whose layers do not hold the keys of the last tokens as
            they are.
    """
    layer = cache.layers[index]
    if isinstance(layer, _Remembers):
        return layer
    kinds = _KINDS | _STATIC if static else _KINDS
    if type(layer) not in kinds:
        raise NotImplementedError(
            f"{who} in a DynamicCache{' or StaticCache' * static}, and this cache has layers of "
            f"type {type(layer).__name__}: generate with cache_implementation='dynamic', or with "
            "use_cache=False"
        )
    again = object.__new__(kinds[type(layer)])
    # the same state, so that whoever holds the layer sees the same keys
    again.__dict__ = layer.__dict__
    again.memories = {}
    cache.layers[index] = again  # type: ignore[call-overload]
    return again


def recall(
    layer: _Remembers, adapter: int, name: str, new: Tensor, past: int, rows: Tensor | None = None
) -> list[Tensor]:
    """What the adapter sent for the ``past`` tokens before the new ones ``[B, Nq, hidden]``;
    nothing at the start.

    Args:
        rows: int64 ``[B]``, the rows of the whole batch that the new tokens are of; None for all.

    Raises:
        RuntimeError: the tokens in the cache are not those that this adapter saw.
    """
    gone_by = layer.get_seq_length() - new.shape[1]  # type: ignore[attr-defined]
    if gone_by == 0:
        return []
    memory = layer.memories.get(adapter)
    if (
        memory is None
        or memory.seen != gone_by
        or any(part.shape[-2] < past for part in memory.parts)
    ):
        knows = "none of them" if memory is None else f"{memory.seen}"
        raise RuntimeError(
            f"the cache holds {gone_by} tokens and adapter {name!r} saw {knows}: the active "
            "adapter was changed, or disabled, after the cache was filled. Start with a new cache"
        )
    if memory.rows is not None and not bool(
        (memory.rows if rows is None else memory.rows[rows]).all()
    ):
        raise RuntimeError(
            f"adapter {name!r} did not see the cached tokens of some rows that it is now for: "
            "adapter_names was changed after the cache was filled. Start with a new cache"
        )
    parts = memory.parts if rows is None else [part[rows.to(part.device)] for part in memory.parts]
    # from an offloaded cache
    return [part[..., part.shape[-2] - past :, :].to(new.device) for part in parts]


class Steps:
    """What the steps of one layer made of past tokens, kept in a model's cache.

    A step after the first reads what the step before made of every sender; when a layer decodes, it
    has made that of the past ones in earlier calls.

    Args:
        cache: of the model, which holds the keys of this call already.
        index: the layer's place in it.
        who: whose steps, ``"feed_forward='halfway'"``.
    """

    def __init__(self, cache: Cache, index: int, who: str) -> None:
        self.cache, self.index, self.who = cache, index, who

    def __call__(self, step: Hashable, new: Tensor, num_senders: int) -> Tensor:
        """What the new tokens have ``[B, H, Nq, D]`` after what all senders have
        ``[B, H, Nk, D]``.

        Raises:
            RuntimeError: the cache holds tokens that this layer has not seen.
        """
        layer = remembering(self.cache, self.index, f"{self.who} keeps its tokens", static=True)
        key = (self.who, step)
        past = num_senders - new.shape[-2]
        parts = []
        if (gone_by := int(layer.get_seq_length()) - new.shape[-2]) > 0:  # type: ignore[attr-defined]
            memory = layer.memories.get(key)
            known = 0 if memory is None else memory.seen
            if memory is None or known != gone_by or memory.parts[0].shape[-2] < past:
                raise RuntimeError(
                    f"the cache holds {gone_by} tokens and {self.who} saw {known} of them: another "
                    "model filled it. Start with a new cache"
                )
            kept = memory.parts[0]
            parts = [kept[..., kept.shape[-2] - past :, :].to(new.device)]
        whole = torch.cat((*parts, new), dim=-2)
        layer.store(key, [whole], None, len(whole))
        return whole
