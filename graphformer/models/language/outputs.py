"""What the language model returns, and what it calls its cache."""

from __future__ import annotations

from dataclasses import dataclass

from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from graphformer.graph import AttentionGraph

# What the installed transformers calls the cache: its output classes know, `cache` since 5.24.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache, by whichever of its two names it was given."""
    if cache is not None and past_key_values is not None:
        raise ValueError(
            "give exactly one of cache and past_key_values: they are two names of one argument"
        )
    given = past_key_values if cache is None else cache
    if given is not None and (
        isinstance(given, EncoderDecoderCache) or not hasattr(given, "get_seq_length")
    ):
        raise TypeError(
            "past_key_values (or cache) must be a transformers cache of one stack of layers, as "
            f"DynamicCache() or StaticCache(...), got {type(given).__name__}"
        )
    return given


@dataclass
class GraphformerModelOutput(BaseModelOutputWithPast):
    """As transformers' own, and ``graphs``: one :class:`~graphformer.AttentionGraph` a layer, lanes
    ``(B, H)``.
    """

    graphs: tuple[AttentionGraph, ...] | None = None


@dataclass
class GraphformerCausalLMOutput(CausalLMOutputWithPast):
    """As transformers' own, and ``graphs``: one :class:`~graphformer.AttentionGraph` a layer, lanes
    ``(B, H)``.
    """

    graphs: tuple[AttentionGraph, ...] | None = None
