"""Whole models of the reference: configuration and weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphformer.compat.xgpt.settings import Settings, read_settings
from graphformer.compat.xgpt.slots import (
    OPERATORS,
    check_quirks,
    normalizer,
    operator_options,
    score,
    sharpening,
    sparsifier_spec,
)
from graphformer.compat.xgpt.weights import attention_state
from graphformer.models.language.configuration import GraphformerConfig
from graphformer.models.language.model import GraphformerDecoderLayer, GraphformerForCausalLM


def config(settings: Settings, llama: Any, *, quirks: Collection[str] = ()) -> GraphformerConfig:
    """The configuration of this library's model for the reference's two: its own settings, and the
    Llama config beside them.

    Args:
        llama: a transformers ``LlamaConfig``, or a mapping with its fields.
        quirks: as in :func:`graphformer.compat.xgpt.attention`. ``"first_token"`` is for single
            layers only: no setting of ours says it.

    Raises:
        ValueError: a part that this model does not have (the text says which, and where it is).
    """
    check_quirks(quirks)
    fields: Mapping[str, Any] = llama if isinstance(llama, Mapping) else llama.to_dict()
    refuse(settings, fields, quirks)
    operator = OPERATORS[settings.use_GNN_from_attention]
    ours: dict[str, Any] = {
        name: fields[name]
        for name in (
            *(
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
            ),
            *("max_position_embeddings", "rms_norm_eps", "initializer_range", "attention_dropout"),
            *("pad_token_id", "bos_token_id", "eos_token_id"),
        )
        if fields.get(name) is not None
    }
    # Files of transformers 4 have rope_theta, those of transformers 5 rope_parameters.
    rope = fields.get("rope_parameters") or {
        "rope_type": "default",
        "rope_theta": fields.get("rope_theta", 10000.0),
    }
    options = operator_options(settings, quirks, float(fields.get("rms_norm_eps", 1e-6)))
    network = {"pairwise": settings.attention_GIN_MLP_scoring_hidden_dim}
    starts = sharpening(settings)
    if starts is not False and starts != 1.0:
        options["sharpening"] = starts
    return GraphformerConfig(
        **ours,
        operator=operator,
        mlp_ratio=float(settings.attention_GIN_MLP_multiplier),
        sharpening=starts is not False,
        score=network if score(settings) == "pairwise" else score(settings),
        threshold=sparsifier_spec(settings, quirks),
        normalize=normalizer(settings),
        output_projection=settings.attention_GIN_MLP_o_proj_at_end if operator == "gin" else None,
        operator_options={operator: options} if options else None,
        rope_parameters=rope,
        tie_word_embeddings=False,  # asked for or not, the reference's two are separate tensors
    )


def refuse(settings: Settings, fields: Mapping[str, Any], quirks: Collection[str]) -> None:
    """Raise ValueError for what a model of ours does not have."""
    if settings.use_GNN_from_attention not in OPERATORS:
        raise ValueError(
            f"use_GNN_from_attention={settings.use_GNN_from_attention!r} (coarse graining) cannot "
            "be read as a model, because its tokens do not see what they should: "
            "xgpt.load_coarse_attention reads single layers, to compare with; to train, take "
            "gf.Head(candidates=Blocks(64))"
        )
    if settings.gnn_mode != "none":
        raise ValueError(
            f"gnn_mode={settings.gnn_mode!r} is a Sparse-GIN adapter on the model, not a part of "
            "it; read the model with gnn_mode='none'"
        )
    if settings.MLP_type != "standard_MLP":
        raise ValueError(
            f"MLP_type={settings.MLP_type!r} cannot be read: only the gated feed-forward, "
            "standard_MLP"
        )
    if (
        settings.use_GNN_from_attention == "LlamaAttentionPNA_LM"
        and settings.attention_GIN_MLP_GIN_learnable_threshold
    ):
        raise ValueError(
            "attention_GIN_MLP_GIN_learnable_threshold with LlamaAttentionPNA_LM: every layer's "
            "neighbours follow its own trained threshold, which one configuration cannot say; read "
            "the layers one by one with xgpt.load_attention"
        )
    if "first_token" in quirks:
        raise ValueError(
            "the quirk 'first_token' is for single layers (xgpt.attention): a model's "
            "configuration has no setting for it"
        )
    for name, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if fields.get(name, wanted) != wanted:
            raise ValueError(f"{name}={fields[name]!r} cannot be read: this model has {wanted!r}")


def decoder_layer_state(
    settings: Settings, state: Mapping[str, Tensor], *, layer_idx: int = 0
) -> dict[str, Tensor]:
    """State dict of one decoder layer under this library's names."""
    prefix = "self_attn."
    attention = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    others = {name: value for name, value in state.items() if not name.startswith(prefix)}
    converted = attention_state(settings, attention, layer_idx=layer_idx)
    return others | {prefix + name: value for name, value in converted.items()}


def load_decoder_layer(
    settings: Settings,
    llama: Any,
    state: Mapping[str, Tensor],
    *,
    layer_idx: int = 0,
    quirks: Collection[str] = (),
) -> GraphformerDecoderLayer:
    """One decoder layer with the reference's weights."""
    layer = GraphformerDecoderLayer(config(settings, llama, quirks=quirks), layer_idx)
    layer.load_state_dict(decoder_layer_state(settings, state, layer_idx=layer_idx))
    return layer


def load_model(
    settings: Settings, llama: Any, state: Mapping[str, Tensor], *, quirks: Collection[str] = ()
) -> GraphformerForCausalLM:
    """A whole model with the reference's weights, ready to generate with a cache and to be saved.

    Args:
        settings: see :func:`read_settings`.
        llama: the Llama config, see :func:`config`.
        state: the state dict of ``LlamaForCausalLMWithGNN``.

    Raises:
        ValueError: settings or parameters that cannot be read. RuntimeError: parameters that are
            missing or of another shape.
    """
    model = GraphformerForCausalLM(config(settings, llama, quirks=quirks))
    layers: dict[int, dict[str, Tensor]] = {}
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
            layers.setdefault(int(match[1]), {})[match[2]] = value
        else:
            converted[name] = value
    for index, layer in layers.items():
        own = decoder_layer_state(settings, layer, layer_idx=index)
        converted |= {f"model.layers.{index}.{name}": value for name, value in own.items()}
    model.load_state_dict(converted)
    return model.eval()


def load_folder(
    folder: str | os.PathLike[str], *, quirks: Collection[str] = ()
) -> GraphformerForCausalLM:
    """:func:`load_model` from a folder: ``config.json`` with ``gnn_config`` in it, and
    ``*.safetensors`` or ``pytorch_model*.bin``.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path} holds no config.json: give the folder that the reference's save_pretrained "
            "wrote"
        )
    fields = json.loads((path / "config.json").read_text())
    if "gnn_config" not in fields:
        raise ValueError(
            f"{path / 'config.json'} has no gnn_config, so it is not a model of the reference"
        )
    state: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        from safetensors.torch import load_file

        state |= load_file(file)
    if not state:
        for file in sorted(path.glob("pytorch_model*.bin")):
            state |= torch.load(file, map_location="cpu", weights_only=True)
    if not state:
        raise ValueError(f"{path} holds neither *.safetensors nor pytorch_model*.bin")
    return load_model(read_settings(fields["gnn_config"]), fields, state, quirks=quirks)
