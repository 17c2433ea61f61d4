"""From a config to the attention layer of one block."""

from __future__ import annotations

from typing import Any

from graphformer.attention.slot import from_spec as from_plain
from graphformer.attention.sparsifiers import Sparsifier, Threshold, TopK, from_spec
from graphformer.models.language.configuration import GraphformerConfig
from graphformer.nn import GINAttention, GraphAttention, PNAAttention, SumAttention


def make_sparsifier(config: GraphformerConfig, num_heads: int) -> Sparsifier | None:
    """The sparsifier that the config's plain numbers stand for."""
    threshold: Sparsifier | None = None
    if isinstance(config.threshold, dict):
        threshold = from_spec(config.threshold, num_heads)
    elif isinstance(config.threshold, int | float):
        threshold = Threshold(float(config.threshold))
    top_k = None if config.top_k is None else TopK(config.top_k)
    if threshold is not None and top_k is not None:
        return threshold & top_k
    return threshold or top_k


LAYERS: dict[str, Any] = {"sum": SumAttention, "gin": GINAttention, "pna": PNAAttention}


def make_attention(config: GraphformerConfig, layer_idx: int) -> GraphAttention:
    """The attention layer of one block: its head, or what the names of single slots stand for."""
    head = config.layer_heads[layer_idx]
    if head is not None and layer_idx == 0:
        head = head.in_first_layer()
    num_heads = config.layer_num_heads[layer_idx]
    shared: dict[str, Any] = {
        "attention_dropout": config.attention_dropout,
        "backend": config.backend,
        "executor": config.executor,
        "layer_idx": layer_idx,
        "head_dim": config.head_dim,
        "relations": config.text_relations,
    }
    operator = config.layer_operators[layer_idx]
    if head is not None:
        shared["head"] = head
    else:
        shared |= {
            "sparsify": make_sparsifier(config, num_heads),
            "normalize": from_plain("normalize", config.normalize),
        }
        if isinstance(config.score, dict) and "name" not in config.score:
            ((shared["score"], shared["score_width"]),) = config.score.items()
        else:
            shared["score"] = (
                config.score if isinstance(config.score, str) else from_plain("score", config.score)
            )
        for name in ("value_projection", "output_projection"):
            if getattr(config, name) is not None:
                shared[name] = getattr(config, name)
    if operator != "sum":
        shared["sharpening"] = config.sharpening
        if head is None or head.operator is None:
            shared["mlp_ratio"] = config.mlp_ratio
    shared |= (config.operator_options or {}).get(operator, {})
    heads = (config.hidden_size, num_heads, config.layer_num_key_value_heads[layer_idx])
    try:
        return LAYERS[operator](*heads, **shared)
    except TypeError as error:
        raise ValueError(
            f"operator_options[{operator!r}] holds what {LAYERS[operator].__name__} does not take: "
            f"{error}"
        ) from None
