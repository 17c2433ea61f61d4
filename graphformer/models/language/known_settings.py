"""Which settings a config may hold beside the model's own, and what becomes of those that nobody
knows.
"""

from __future__ import annotations

import difflib
import warnings
from contextvars import ContextVar
from typing import Any

from transformers import GenerationConfig
from transformers.modeling_rope_utils import RopeParameters

from graphformer.errors import did_you_mean

from_file: ContextVar[bool] = ContextVar("from_file", default=False)
"""Whether a config is being read from a file, which another version may have written."""

# What PreTrainedConfig takes beside its fields, in this version of transformers or an older one; it
# has a use for each, or had.
_TRANSFORMERS_OWN = {
    *("torch_dtype", "num_labels", "rope_scaling", "rope_theta", "partial_rotary_factor"),
    *("name_or_path", "_name_or_path", "_commit_hash", "output_attentions", "attn_implementation"),
    *("experts_implementation", "per_layer_config", "model_type", "_attn_implementation_internal"),
    *("_experts_implementation_internal", "_attn_implementation_autoset", "auto_map"),
    *("quantization_config", "is_decoder", "layer_types", "tie_last_hidden_states"),
    *("tokenizer_class", "_output_attentions", "return_dict", "output_hidden_states"),
    *("chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type"),
    *("transformers_version", "architectures", "dtype", "_from_auto", "_from_pipeline"),
    *("base_model_tp_plan", "base_model_pp_plan"),
}
# Fields of configs that older versions wrote, without effect on any model of ours.
_FORMER = {
    *("torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads"),
    *("cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder"),
    *("finetuning_task", "task_specific_params", "prefix", "sep_token_id"),
    *("decoder_start_token_id", "max_length", "min_length", "num_beam_groups", "diversity_penalty"),
    *("early_stopping", "forced_bos_token_id", "forced_eos_token_id"),
}

# What finds a file, which transformers leaves among the settings.
OF_THE_HUB = {
    *("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder"),
    *("proxies", "user_agent", "gguf_file", "trust_remote_code", "code_revision"),
    *("resume_download", "use_auth_token", "_from_auto", "_from_pipeline", "_commit_hash"),
}


def without_unknown(config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are no fields, without those that nobody reads: they are refused, or
    told where a file holds them.
    """
    if kwargs.get("model_type", config.model_type) != config.model_type:
        raise ValueError(
            f"model_type={kwargs['model_type']!r}: this is the config of {config.model_type!r}; "
            "take AutoConfig"
        )
    if kwargs.get("per_layer_config"):
        raise ValueError(
            "per_layer_config is transformers' way to give each layer its settings; here those "
            "that may differ are lists with one for each layer: num_attention_heads=[3, 1], "
            "num_key_value_heads, operator, head, feed_forward"
        )
    fields = set(config.__dataclass_fields__)
    of_generation = set(GenerationConfig().to_dict()) - fields
    unknown = [name for name in kwargs if name not in _TRANSFORMERS_OWN]
    if from_file.get():
        told = [
            name
            for name in unknown
            if name not in _FORMER | of_generation and not name.startswith("_")
        ]
        if told:
            warnings.warn(
                f"config: {', '.join(told)} "
                f"{'is no setting' if len(told) == 1 else 'are no settings'} of this version "
                "of graphformer and not read",
                stacklevel=5,
            )
    elif unknown:
        name = unknown[0]
        if name in of_generation and not difflib.get_close_matches(name, fields, 1, 0.85):
            raise TypeError(
                f"GraphformerConfig got {name!r}, which is a setting of generation: give it to "
                f"model.generate(...), or set model.generation_config.{name}"
            )
        raise TypeError(
            f"GraphformerConfig got an unknown setting {name!r}{did_you_mean(name, fields)}"
        )
    return {name: value for name, value in kwargs.items() if name not in unknown}


def check_rope(given: dict[str, Any]) -> None:
    known = {
        *RopeParameters.__annotations__,
        "type",
        "truncate",
        "mscale",
        "mscale_all_dim",
        "partial_rotary_factor",
    }
    if unknown := sorted(set(given) - known):
        text = f"rope_parameters holds an unknown {unknown[0]!r}{did_you_mean(unknown[0], known)}"
        if not from_file.get():
            raise ValueError(text)
        warnings.warn(f"config: {text}; it is not read", stacklevel=5)
