"""The settings of xgpt, the code of arXiv 2501.02393: those that change an output, those that do
not, and a reader that checks them.

Names and defaults are those of its settings object, so that a ``config.json`` of a trained model
can be read as it is.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import typing
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphformer.compat.xgpt.thresholds import MODES

GRAPH_ATTENTIONS = ("LlamaAttentionGIN", "LlamaAttentionPNA", "LlamaAttentionPNA_LM")
COARSE_ATTENTIONS = ("CG_Attention", "CG_Attention_Interpolate")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that change an output, under their names and with their defaults in xgpt.

    A setting of the wrong type, a number that is not finite, and values with which xgpt fails are
    refused, as far as they are used. Where it fails for no reason that concerns the answer (a whole
    number for a fractional one) the value is taken. Lists become tuples.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an unknown name among the values, or values that contradict each other.

    Example:
        >>> Settings(use_GNN_from_attention="LlamaAttentionGIN").gnn_mode
        'none'
    """

    # What attends.
    use_GNN_from_attention: str = "none"  # the attention class; "none" is transformers' own
    # gamma: width of the heads' MLPs over the heads' width
    attention_GIN_MLP_multiplier: float = 2.0
    # GIN: a linear map over the heads' outputs (PNA always has it)
    attention_GIN_MLP_o_proj_at_end: bool = False
    attention_GIN_MLP_GIN_use_softmax: bool = True
    # PNA without softmax: ReLU, else raw scores
    attention_GIN_MLP_GIN_use_ReLU_instead_of_softmax: bool = True
    # scores are divided by it before the softmax
    attention_GIN_MLP_GIN_softmax_temperature: float = 1.0
    use_sharpening: bool = False  # GIN: a trainable factor on the scores before the softmax
    initial_sharpening_value: float = 1.0
    sharpening_value_init: str = "value"  # "value", or "random": uniform in 0.5..1.5
    use_differential_attention: bool = False  # GIN: the difference of two softmax maps
    use_differential_attention_group_norm: bool = False  # its weights normalized head by head
    attention_GIN_MLP_use_scoring_fnct: bool = False  # GIN: a network judges each pair
    attention_GIN_MLP_scoring_hidden_dim: int = 512  # its hidden width
    # What becomes of the weights.
    attention_GIN_MLP_GIN_threshold_mode: str = "none"
    attention_GIN_MLP_GIN_threshold_value: float = 0.2  # tau
    attention_GIN_MLP_GIN_learnable_threshold: bool = False
    attention_GIN_MLP_GIN_binary_scale: float = 1.0  # height of the step in "silu+binary"
    # sharpness; see docs/coming-from/xgpt.md for who reads it
    attention_GIN_MLP_GIN_sharp_softplus_beta: float = 10.0
    attention_GIN_MLP_GIN_top_k_fraction_of_sequence_length: float = 0.1
    # Coarse-grained attention.
    num_latents_list: tuple[int, ...] = (64, 32, 8)  # one level of latents each
    num_latent_layers: int = 4
    max_position_embeddings: int = 2048
    mix_weights_initial: float = 0.5
    use_projection: bool = False  # a linear map at each level (interpolating variant)
    # The feed-forward of a decoder block.
    MLP_type: str = "standard_MLP"
    # The adapter: a graph neural network on the attention map of a block.
    gnn_mode: str = "none"  # "none", "single" (heads merged), "per_head"
    # which network; the default names none and fails unless gnn_mode is "none"
    gnn_type: str = "causal_gnn"
    gnn_logic: str = "before_MLP"  # where in the block
    num_layers: int = 3
    hidden_dim: int = 128  # where it is not the input's width, there are projections to it and back
    activation: str = "relu"
    dropout: float = 0.2
    gnn_residual: bool = True
    add_rope: bool = False  # rotary embeddings on node features; fails unless there is one head
    use_layer_norm: bool = True  # RMSNorm on the adapter's output ("single" only)
    rms_norm_eps: float = 1e-5  # of that norm alone
    # output rescaled to the input's norm, both over all tokens of all sequences
    norm_to_hidden_states: bool = False
    lambda_GNN: float = 0.5  # trainable scale of the last block ...
    # ... and of the first, linear between; None: the same everywhere
    lambda_GNN_initial: float | None = None
    per_head_ff: bool = False  # a linear map over the heads' outputs ("per_head" only)
    # the adapter gets the normed input of the block; attention's output is dropped
    use_original_hidden_states: bool = False
    GIN_use_MLP: bool = True
    GIN_use_norm: bool = False
    GIN_hidden_dim_multiplier: float = 2.0
    GIN_edge_weight_scaling: bool = True  # messages times edge weights
    # The adapter's graph, in the order in which construct_adjacency uses them.
    adj_construction_method: str = "sum"  # how heads are merged
    threshold_any_tau: float = 10.0
    learnable_aggregate_activation: str = "softmax"
    adj_transform_hidden_dim: int = 128
    use_distance_scaling: bool = False
    distance_weight_strength: float = 1.0
    distance_scaling_method: str = "power"
    # above 0: weights become sigmoid(alpha (a - threshold))
    continuous_transform_alpha: float = 10.0
    threshold: float = 0.5
    zero_below_epsilon_threshold: bool = True
    epsilon_threshold: float = 0.5
    remove_self_connections: bool = False
    enforce_causality: bool = True

    def __post_init__(self) -> None:
        for name, wanted in typing.get_type_hints(Settings).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), wanted))
        self._check_block()
        if self.gnn_mode != "none":
            self._check_adapter()

    def _one_of(self, name: str, known: Collection[str], remedy: str = "") -> None:
        value = getattr(self, name)
        if value not in known:
            raise ValueError(
                f"unknown {name} {value!r}; known: {', '.join(known)}"
                + (f". {remedy}" if remedy else "")
            )

    def _check_block(self) -> None:
        self._one_of(
            "use_GNN_from_attention",
            ("none", "LlamaAttention_Original", *GRAPH_ATTENTIONS, *COARSE_ATTENTIONS),
            "xgpt takes transformers' attention for a name that it does not know: write 'none' for "
            "that",
        )
        self._one_of("gnn_mode", ("none", "single", "per_head"))
        self._one_of("gnn_logic", ("before_MLP", "after_MLP", "parallel_GNN_MLP"))
        self._one_of(
            "MLP_type",
            ("standard_MLP", "linear_MLP", "shallow_MLP", "no_MLP"),
            "xgpt cannot build its three graph feed-forwards (their weights alone are read by "
            "xgpt.load_feed_forward), and takes the standard one for a name that it does not know: "
            "write 'standard_MLP' for that",
        )
        if self.use_GNN_from_attention in GRAPH_ATTENTIONS:
            self._one_of("attention_GIN_MLP_GIN_threshold_mode", MODES)
            mode, name = (
                self.attention_GIN_MLP_GIN_threshold_mode,
                "attention_GIN_MLP_GIN_top_k_fraction_of_sequence_length",
            )
            if mode in ("top_k", "scaled_topk_causal_4d") and not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} must lie in (0, 1] for threshold mode {mode!r}, got "
                    f"{getattr(self, name)}"
                )
        if self.use_GNN_from_attention == "LlamaAttentionGIN" and self.use_sharpening:
            self._one_of("sharpening_value_init", ("value", "random"))
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, got {self.threshold}")

    def _check_adapter(self) -> None:
        mode = f"gnn_mode is {self.gnn_mode!r}"
        if self.use_GNN_from_attention in COARSE_ATTENTIONS:
            raise ValueError(
                f"{mode}, but {self.use_GNN_from_attention} has no attention map for the adapter: "
                "set gnn_mode='none' or another use_GNN_from_attention"
            )
        self._one_of(
            "gnn_type",
            ("causal_gin", "causal_recombination"),
            f"{mode}, which needs one. xgpt cannot build causal_gcn and causal_pna, and its "
            "default 'causal_gnn' names no network: set gnn_type='causal_gin', or gnn_mode='none'",
        )
        if self.activation.lower() not in (known := ("relu", "tanh", "gelu", "prelu")):
            raise ValueError(f"unknown activation {self.activation!r}; known: {', '.join(known)}")
        self._one_of(
            "adj_construction_method", ("sum", "mean", "threshold_any", "learnable_aggregate")
        )
        if self.adj_construction_method == "learnable_aggregate":
            self._one_of("learnable_aggregate_activation", ("softmax", "sigmoid"))
            if self.gnn_mode == "per_head":
                raise ValueError(
                    "adj_construction_method='learnable_aggregate' merges the heads, but "
                    "gnn_mode='per_head' needs one graph for each: set gnn_mode='single', or "
                    "adj_construction_method='sum'"
                )
        if self.adj_construction_method == "threshold_any" and self.threshold_any_tau == 0:
            raise ValueError(
                "threshold_any_tau divides the weights, so it must not be 0; a small one such as "
                "0.01 is a hard threshold"
            )
        if self.use_distance_scaling:
            self._one_of(
                "distance_scaling_method",
                ("power", "exp", "sigmoid", "linear"),
                "xgpt scales linearly for a name that it does not know: write 'linear' for that",
            )


UNUSED: dict[str, object] = {
    "combined_norm": True,
    "use_GNN_from_attention_add_RoPE_at_every_layer": False,
    "attention_epsilon_strategy": "default",
    "residual_epsilon_strategy": "default",
    "attention_epsilon_uniform_value": 0.5,
    "use_soft_masking": False,
    "soft_masking_k": 10.0,
    "soft_masking_initial_threshold": 0.01,
    "use_graph_property_modulation": False,
    "use_graph_property_modulation_with_norm": False,
    "use_graph_property_modulation_with_norm_use_causal_clustering": True,
    "LlamaAttentionHierarchicalPerceiverAR_use_rope": True,
    "LlamaAttentionHierarchicalVariant_2_PerceiverAR_use_skip": True,
    "use_layer_norm_in_GIN_MLP": False,
    "use_no_norm_in_GIN_MLP": False,
    "use_hierarchical_attention": False,
    "hierarchical_enc_dec_type": "PerceiverAR",
    "attention_GIN_MLP_GIN_MLP_mode": "shared",
    "attention_GIN_MLP_attention_mix_mode": "A",
    "attention_GIN_MLP_separate_attention": False,
    "attention_GIN_MLP_GIN_MLP_pre_aggregate": True,
    "attention_GIN_MLP_GIN_fuse_mode": "epsilon",
    "GIN_after_attention": True,
    "GIN_after_attention_pre_GIN_norm": True,
    "GIN_after_attention_skip": True,
    "attention_GIN_MLP_use_second_order": False,
    "attention_GIN_MLP_second_order_factor": 0.1,
}
"""Settings whose names occur in no code but that of the settings object, and their defaults
there.
"""

_PNA_ADAPTER = "belongs to gnn_type='causal_pna', which xgpt cannot build"

WITHOUT_EFFECT: dict[str, tuple[object, str]] = {
    "top_k": (8, "only local variables of other code are called so"),
    "N_GNN_from_attention_layers": (1, "stands in a comment only; the classes fix it to 1"),
    "use_original_hidden_states_add_attention": (False, "is looked at, and then nothing is added"),
    "residual_epsilon_uniform_value": (0.1, "fills a parameter that nothing uses"),
    "group_tokens_for_coarse_graining": (False, "is stored and not used"),
    "use_fixed_number_of_tokens_per_latent": (False, "is printed and not used"),
    "num_latents": (32, "is overwritten by the entries of num_latents_list"),
    "attention_GIN_MLP_GIN_mode": ("default", "has one other value, whose class does not exist"),
    "aggregators": (None, _PNA_ADAPTER),
    "scalers": (None, _PNA_ADAPTER),
    "degree": (None, _PNA_ADAPTER),
    "model_type": ("gnn", "is a label"),
    "tokenizer": (None, "labels pictures"),
    "plot_for_debugging": (False, "draws pictures"),
}
"""Settings that code reads but that change no output: their defaults, and why."""

# Nobody expects these to change a model, so nobody is told.
_SILENT = ("model_type", "tokenizer", "plot_for_debugging")

# What transformers itself keeps in its configurations, up to version 5.
_OF_TRANSFORMERS = """
 add_cross_attention architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens
bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
is_decoder is_encoder_decoder label2id length_penalty max_length min_length no_repeat_ngram_size
num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states
output_scores pad_token_id prefix problem_type pruned_heads quantization_config
remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
tie_word_embeddings tokenizer_class top_p torch_dtype torchscript transformers_version typical_p
use_bfloat16 use_return_dict
"""


def read_settings(source: Mapping[str, Any] | str | os.PathLike[str] | object) -> Settings:
    """The settings in a mapping, an object with these attributes, or a JSON file.

    Where there is an entry ``gnn_config`` (xgpt keeps its settings there, in the model's own
    configuration) it is read instead. A missing name takes its default; what transformers adds to
    its configurations is passed over.

    Args:
        source: names to values; an object whose attributes they are; the path of a JSON file, or of
            a folder with a ``config.json``.

    Warns:
        UserWarning: one, that names all settings which were changed although they have no effect.

    Raises:
        ValueError: an unknown name, or values that contradict each other.
        TypeError: a value of the wrong type.
    """
    values = _named(source)
    while "gnn_config" in values:
        values = _named(values["gnn_config"])
    known = [field.name for field in dataclasses.fields(Settings)]
    unused = {**UNUSED, **{name: default for name, (default, _) in WITHOUT_EFFECT.items()}}
    unknown = [
        name
        for name in values
        if name not in (*known, *unused)
        and name not in _OF_TRANSFORMERS.split()
        and not name.startswith("_")
    ]
    if unknown:
        raise ValueError(
            "unknown settings: "
            + ", ".join(_with_closest(name, (*known, *unused)) for name in unknown)
        )
    if values.get("attention_GIN_MLP_GIN_mode") == "GINLayer_Var_A":
        raise ValueError(
            "attention_GIN_MLP_GIN_mode 'GINLayer_Var_A' names a class that was never published: "
            "write 'default'"
        )
    changed = [
        name
        for name in unused
        if name in values and name not in _SILENT and not _same(values[name], unused[name])
    ]
    if changed:
        told = (
            f"{name}={values[name]!r}"
            + (f" ({WITHOUT_EFFECT[name][1]})" if name in WITHOUT_EFFECT else "")
            for name in changed
        )
        warnings.warn(
            f"settings that change nothing in xgpt, and nothing here: {', '.join(told)}",
            UserWarning,
            stacklevel=2,
        )
    return Settings(**{name: values[name] for name in known if name in values})


def _named(source: Any) -> Mapping[str, Any]:
    """Names and values, wherever they come from."""
    if isinstance(source, Mapping):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"source: there is no file {str(path)!r}; give a config.json that holds "
                "gnn_config, its folder, or a mapping"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        if not isinstance(values, dict):
            raise TypeError(
                f"{path} must hold names and values, but holds a {type(values).__name__}"
            )
        return values
    if not hasattr(source, "__dict__") or isinstance(source, type):
        raise TypeError(
            f"settings must be a mapping, an object with attributes or a path, got {source!r}"
        )
    return vars(source)


def _with_closest(name: str, known: Collection[str]) -> str:
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"{name!r} (the closest known one is {closest[0]!r})"


def _same(value: object, default: object) -> bool:
    """Equality of plain values; anything else (a list, a tensor) is another value."""
    return value is default or (isinstance(value, (bool, int, float, str)) and value == default)


def _typed(name: str, value: Any, wanted: Any) -> Any:
    """The value as the type wanted, or TypeError."""
    kinds = typing.get_args(wanted)
    if type(None) in kinds and value is None:
        return None
    if wanted is float or float in kinds:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
            return float(value)
        wanted = float
    elif typing.get_origin(wanted) is tuple:
        if isinstance(value, (list, tuple)) and all(
            isinstance(item, int) and not isinstance(item, bool) for item in value
        ):
            return tuple(value)
    elif isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    told = {bool: "a bool", int: "an int", float: "a number", str: "a str"}.get(
        wanted, "a list of ints"
    )
    raise TypeError(f"{name} must be {told}, got {value!r} of type {type(value).__name__}")
