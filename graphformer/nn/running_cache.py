"""A layer of a transformers cache that holds sums of constant size, where the linear executor runs
and so nothing else of past tokens is needed; else their keys and features, as other layers do.

The caches that a model or ``generate`` makes have such layers (:func:`let_hold_sums`); a cache of
one's own, ``transformers.DynamicCache()``, has not, and keeps all keys. What a layer holds is
decided by its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer

from graphformer.attention.executors.running import RunningSums
from graphformer.attention.scores import Score
from graphformer.nn.memory import _Remembers


class _SumsLayer(DynamicLayer):
    """Keys, or sums in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = RunningSums()

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return not self.sums.held

    def get_seq_length(self) -> int:
        return self.sums.tokens if self.sums.held else super().get_seq_length()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.sums.need_keys("keys are given to it")
        return super().update(key_states, value_states, *args, **kwargs)

    def activate_past_recording(self) -> None:
        """What assisted decoding calls before it crops."""
        self.sums.need_keys("tokens may be taken back, as assisted decoding does")

    def crop(self, tokens_to_remove: int) -> None:
        if self.sums.held and tokens_to_remove:
            raise ValueError(
                f"crop({tokens_to_remove}): the cache holds sums over {self.sums.tokens} tokens, "
                "and none can be taken out of them: fill a cache of your own, "
                "transformers.DynamicCache(), which keeps all keys"
            )
        if not self.sums.held:
            super().crop(tokens_to_remove)

    def reset(self) -> None:
        super().reset()
        self.sums = RunningSums()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.sums.apply(lambda part: part.index_select(0, beam_idx.to(part.device)))
        if not self.sums.held:
            super().reorder_cache(beam_idx)  # type: ignore[arg-type]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.sums.apply(lambda part: part.repeat_interleave(repeats, dim=0))
        if not self.sums.held:
            super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.sums.apply(lambda part: part[indices.to(part.device)])
        if not self.sums.held:
            super().batch_select_indices(indices)


class RunningLayer(_Remembers, _SumsLayer):
    """A cache layer that holds sums where it can; adapters may keep their own beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.memories = {}


def let_hold_sums(cache: Cache | None, attentions: Sequence[Any]) -> None:
    """Give layers of a new cache room for sums, where heads may run with them: sums without
    softmax, and scores of senders alone. Caches that are quantized, offloaded or of fixed length
    stay as they are.

    Args:
        attentions: a model's attention layers, in the order of the cache's.
    """
    if type(cache) is not DynamicCache or cache.offloading:
        return
    for index, (layer, one) in enumerate(zip(cache.layers, attentions, strict=False)):
        alone = type(one.score_slot).of_senders is not Score.of_senders
        may = one.normalize.is_identity or (one.normalize.is_softmax and alone)
        if may and type(layer) is DynamicLayer and not layer.is_initialized:
            cache.layers[index] = RunningLayer()


def make_room(layer: Any, k: Tensor, own: Tensor) -> None:
    """In a layer of fixed length, for features of more heads than keys have: slices of the hidden
    states beside grouped keys. transformers makes room for as many as keys.
    """
    if not isinstance(layer, StaticLayer) or layer.is_initialized:
        return
    layer.lazy_initialization(k, own)
    layer.values = own.new_zeros(*own.shape[:2], layer.max_cache_len, own.shape[3])
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_static_address(layer.values)


class CachedCall:
    """One call of a layer on tokens with a cache.

    Args:
        index: the layer's place in it.
        why: says why this call needs all keys, where it does.

    Attributes:
        sums: what the cache knows of sums; None where it keeps keys alone.

    Raises:
        ValueError: keys are needed, and sums have been kept.
    """

    def __init__(self, cache: Any, index: int, why: Callable[[], str | None]) -> None:
        self.cache, self.index = cache, index
        layers = getattr(cache, "layers", ())  # a cache of another making may have none
        layer = layers[index] if index < len(layers) else None
        self.sums = layer.sums if isinstance(layer, RunningLayer) else None
        reason = None if self.sums is None else why()
        if self.sums is not None and reason is not None:
            self.sums.need_keys(reason)
        self.keys = self.sums is None or self.sums.why is not None

    def before(
        self, k: Tensor, own: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and features of all senders and their mask; those of the new tokens where sums stand
        for the others.
        """
        if self.keys:
            return *self._updated(k, own), mask
        assert self.sums is not None
        return k, own, self.sums.of_new(mask, (k.shape[0], k.shape[2]))

    def after(self, k: Tensor, own: Tensor) -> None:
        """Keep the keys of a first call that left no sums."""
        if not self.keys and self.sums is not None and not self.sums.held:
            self._updated(k, own)

    def _updated(self, k: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        layers = getattr(self.cache, "layers", ())
        if self.index < len(layers) and k.shape[1] != own.shape[1]:
            make_room(layers[self.index], k, own)
        filled = self.cache.get_seq_length(self.index) + k.shape[2]
        k, features = self.cache.update(k, own, self.index)
        if k.shape[2] != filled:  # a static cache hands out its empty places too
            k, features = k[:, :, :filled], features[:, :, :filled]
        return k, features
