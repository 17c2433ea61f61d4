"""What the reference's settings mean, as names and plain numbers for the slots of this library."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from graphformer.compat.xgpt.settings import Settings
from graphformer.compat.xgpt.thresholds import threshold_spec

QUIRKS = {
    "own_max": "PNA's max is the token's own value",
    "first_token": "where no neighbour is above the threshold, PNA_LM takes the value of the first "
    "token",
    "map_norm": "the group norm of differential attention runs over the whole map, the future "
    "included",
}
"""The faults of xgpt that can be asked for, with what each brings back."""

OPERATORS = {
    "LlamaAttentionGIN": "gin",
    "LlamaAttentionPNA": "pna",
    "LlamaAttentionPNA_LM": "pna",
    "LlamaAttention_Original": "sum",
    "none": "sum",
}


def check_quirks(quirks: Collection[str]) -> None:
    """Raise ValueError where one is not known."""
    unknown = sorted(set(quirks) - set(QUIRKS))
    if unknown:
        raise ValueError(
            f"unknown quirks {unknown}; known: "
            + "; ".join(f"{name!r} ({what})" for name, what in QUIRKS.items())
        )


def beta(settings: Settings) -> float:
    """What the reference's class for these settings uses: PNA takes 10 in the sigmoid, PNA_LM
    everywhere.
    """
    given, kind = (
        settings.attention_GIN_MLP_GIN_sharp_softplus_beta,
        settings.use_GNN_from_attention,
    )
    mode = settings.attention_GIN_MLP_GIN_threshold_mode
    follows = kind == "LlamaAttentionGIN" or (
        kind == "LlamaAttentionPNA" and mode == "sharp_softplus"
    )
    return given if follows else 10.0


def sparsifier_spec(settings: Settings, quirks: Collection[str] = ()) -> dict[str, Any] | None:
    """What these settings make of the attention map, in plain values."""
    if OPERATORS[settings.use_GNN_from_attention] == "sum":
        return None
    spec = threshold_spec(
        settings.attention_GIN_MLP_GIN_threshold_mode,
        settings.attention_GIN_MLP_GIN_threshold_value,
        beta=beta(settings),
        scale=settings.attention_GIN_MLP_GIN_binary_scale,
        fraction=settings.attention_GIN_MLP_GIN_top_k_fraction_of_sequence_length,
        trainable=settings.attention_GIN_MLP_GIN_learnable_threshold,
    )
    if (
        score(settings) == "differential"
        and settings.use_differential_attention_group_norm
        and softmaxed(settings)
    ):
        over = "map" if "map_norm" in quirks else "receiver"
        return {
            "name": "normalize_weights",
            "over": over,
            **({} if spec is None else {"then": spec}),
        }
    return spec


def score(settings: Settings) -> str:
    """The name of the score; only the reference's GIN has others than the dot product."""
    if OPERATORS[settings.use_GNN_from_attention] != "gin":
        return "dot"
    if settings.attention_GIN_MLP_use_scoring_fnct:
        return "pairwise"
    return "differential" if settings.use_differential_attention else "dot"


def softmaxed(settings: Settings) -> bool:
    """Whether weights are softmax: always with pairwise scores, else as the settings say."""
    plain = OPERATORS[settings.use_GNN_from_attention] == "sum"
    return plain or score(settings) == "pairwise" or settings.attention_GIN_MLP_GIN_use_softmax


def normalizer(settings: Settings) -> str:
    """The name of the normalizer."""
    if softmaxed(settings):
        return "softmax"
    kind = settings.use_GNN_from_attention
    rectified = kind == "LlamaAttentionPNA_LM" or (
        kind == "LlamaAttentionPNA" and settings.attention_GIN_MLP_GIN_use_ReLU_instead_of_softmax
    )
    return "relu" if rectified else "identity"


def sharpening(settings: Settings) -> float | bool:
    """Where the trainable factor starts, the softmax's temperature included, or ``False``."""
    has = (
        OPERATORS[settings.use_GNN_from_attention] == "gin"
        and softmaxed(settings)
        and score(settings) != "pairwise"
    )
    if not (has and settings.use_sharpening):
        return False
    return settings.initial_sharpening_value / settings.attention_GIN_MLP_GIN_softmax_temperature


def query_divisor(settings: Settings) -> float:
    """The softmax's temperature where no sharpening takes it up: then the queries do."""
    here = (
        OPERATORS[settings.use_GNN_from_attention] != "sum"
        and softmaxed(settings)
        and score(settings) != "pairwise"
    )
    return (
        settings.attention_GIN_MLP_GIN_softmax_temperature
        if here and sharpening(settings) is False
        else 1.0
    )


def trains_threshold(settings: Settings) -> bool:
    """Whether a trained threshold is part of the layer: only where a curve uses it."""
    spec = sparsifier_spec(settings) or {}
    spec = spec.get("then", spec)
    return bool(spec.get("trainable"))


def operator_options(
    settings: Settings, quirks: Collection[str], rms_norm_eps: float
) -> dict[str, Any]:
    """Further arguments of the layer."""
    kind = settings.use_GNN_from_attention
    if kind == "LlamaAttentionGIN":
        return {"mlp_dropout": 0.1, "mlp_norm_eps": rms_norm_eps}
    tau = settings.attention_GIN_MLP_GIN_threshold_value
    aggregators = {
        "LlamaAttentionPNA": ["sum", "mean", "own" if "own_max" in quirks else "max", "var"],
        "LlamaAttentionPNA_LM": ["mean", f"max_norm@{tau!r}", "var", f"min_norm@{tau!r}"],
    }
    return (
        {"aggregators": aggregators[kind], "scalers": ["identity"]} if kind in aggregators else {}
    )


def reference_lambda(layer_idx: int) -> float:
    """Where the reference's differential factor starts: its formula counts layers from 1, its
    models from 0.
    """
    return 0.8 - 0.6 * math.exp(-0.3 * (layer_idx - 1))
