"""Token ids in a transformers cache, for relations that compare tokens.

They are a layer of the cache behind the model's own, so they are reordered, cropped, repeated and
forgotten together with the keys.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer


def with_cached_ids(input_ids: Tensor | None, cache: Cache | None, past: int, place: int) -> Tensor:
    """int64 ``[B, Nk]``: the cached tokens and these.

    Args:
        past: how many tokens the cache holds.
        place: number of the ids' layer, that of the model's layers.

    Raises:
        ValueError: tokens that are not known.
    """
    if input_ids is None:
        raise ValueError(
            "inputs_embeds are given, and this model's relations compare tokens (relation "
            "'repeats' reads input_ids): give input_ids, or make the model with other relations"
        )
    kept = None
    if cache is not None and len(cache.layers) > place:
        kept = cast(DynamicLayer, cache.layers[place])
    known = 0 if kept is None else kept.get_seq_length()
    if not torch.compiler.is_compiling() and known != past:
        raise ValueError(
            f"the cache holds {past} tokens and the ids of {known}, and this model's relations "
            "compare tokens: fill the cache by calls of this model with input_ids"
        )
    if kept is None or kept.keys is None:
        return input_ids
    # a static cache holds its empty places too
    return torch.cat((kept.keys[:, 0, :past, 0], input_ids), 1)


def remember_ids(input_ids: Tensor | None, cache: Cache, place: int) -> None:
    """Add the tokens of this call to the cache, whose other layers have them already."""
    assert input_ids is not None
    if len(cache.layers) == place:
        static = cache.layers[0]
        # exact numbers, also where the cache keeps keys in few bits
        cache.layers.append(
            StaticLayer(static.max_cache_len) if isinstance(static, StaticLayer) else DynamicLayer()
        )
    ids = input_ids[:, None, :, None]
    cast(DynamicLayer, cache.layers[place]).update(ids, ids[..., :0])
