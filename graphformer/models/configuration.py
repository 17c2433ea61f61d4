"""GraphformerConfig: the settings of the language model."""

# No `from __future__ import annotations` here: it turns the fields' types into strings, which `strict` does not check.

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from graphformer import _auto
from graphformer.errors import require_known

OPERATORS = ("sum", "gin", "pna")


@strict
class GraphformerConfig(PreTrainedConfig):
    r"""Settings of :class:`GraphformerForCausalLM`; all keyword-only, defaults as in the paper's best model where it names one.

    Args:
        vocab_size: distinct tokens.
        hidden_size: width of the hidden states.
        intermediate_size: width of the gated feed-forward.
        num_hidden_layers: decoder blocks.
        num_attention_heads: heads of a block; each is one graph.
        num_key_value_heads: key heads, each shared by a group of query heads; as many as heads unless given.
        operator: ``"sum"`` (plain attention), ``"gin"``, ``"pna"``; one name for all layers, or a list with one for each.
        mlp_ratio: gamma, hidden width of the heads' MLPs over the heads' width (GIN, PNA).
        sharpening: a trainable factor on the scores of GIN and PNA layers; plain attention has none.
        score: ``"dot"``, ``"differential"``, ``"pairwise"``, or ``{"pairwise": width}`` (see :mod:`graphformer.nn.scoring`).
        threshold: keep edges whose weight exceeds it; ``None`` keeps all. Any other sparsifier is a dictionary of name and arguments, see
            :func:`graphformer.attention.sparsifiers.from_spec`: ``{"name": "reweigh", "curve": "relu", "tau": 0.1, "trainable": True}``.
        top_k: keep this many edges of each row; ``None`` keeps all. With both, an edge must pass both.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"``.
        value_projection, output_projection: projections around the operator; ``None`` is the operator's own habit: GIN has neither, sum and
            PNA have both.
        operator_options: further arguments of each operator's layer: ``{"pna": {"aggregators": ["mean", "max"]}, "gin": {"mlp_dropout":
            0.1}}``.
        max_position_embeddings: longest sequence the model is meant for.
        rope_parameters: rotary embeddings in transformers' form; ``{"rope_type": "default", "rope_theta": 10000.0}`` unless given.
        rms_norm_eps: added to the mean square in the blocks' norms.
        hidden_dropout, attention_dropout: probabilities; dropout after attention and feed-forward, and on the weights.
        initializer_range: standard deviation of fresh weights.
        tie_word_embeddings: the output layer is the embedding.
        use_cache: keep keys and node features while generating.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where the tokenizer has them.
        backend, executor: who aggregates and how it is computed. They never change the answer.

    Raises:
        ValueError: an unknown operator, heads that do not divide, a list of operators of the wrong length.
        StrictDataclassFieldValidationError: a value of the wrong type (huggingface_hub's error).
    """

    model_type = "graphformer"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "graphs"]

    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 1376
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    operator: str | list[str] | tuple[str, ...] = "gin"
    mlp_ratio: int | float = 0.5
    sharpening: bool = True
    score: str | dict[str, int] = "dot"
    threshold: int | float | dict[str, Any] | None = None
    top_k: int | None = None
    normalize: str = "softmax"
    value_projection: bool | None = None
    output_projection: bool | None = None
    operator_options: dict[str, dict[str, Any]] | None = None
    max_position_embeddings: int = 2048
    rope_parameters: dict[str, Any] | None = None
    rms_norm_eps: int | float = 1e-6
    hidden_dropout: int | float = 0.0
    attention_dropout: int | float = 0.0
    initializer_range: int | float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    backend: str = "auto"
    executor: str = "auto"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
        super().__post_init__(**kwargs)
        _auto.register_models()
        self.validate_architecture()  # `strict` calls it too, but wraps the ValueError in an error of its own

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def layer_operators(self) -> tuple[str, ...]:
        """The operator of each layer."""
        if isinstance(self.operator, str):
            return (self.operator,) * self.num_hidden_layers
        return tuple(self.operator)

    def validate_architecture(self) -> None:
        """Called by transformers once the fields are set: settings that contradict each other."""
        for name, heads in (("num_attention_heads", self.num_attention_heads), ("hidden_size", self.hidden_size)):
            if heads < 1:
                raise ValueError(f"{name} must be at least 1, got {heads}")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be num_attention_heads {self.num_attention_heads} times an even head width "
                "(rotary embeddings turn pairs of channels)"
            )
        if self.num_key_value_heads is not None and (self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads):
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        for name in self.operator_options or {}:
            require_known("operator in operator_options", name, OPERATORS)
        unknown = sorted(set(self.layer_operators) - set(OPERATORS))
        if unknown:
            raise ValueError(f"unknown operator {', '.join(map(repr, unknown))}; known: {', '.join(OPERATORS)}")
        if len(self.layer_operators) != self.num_hidden_layers:
            raise ValueError(
                f"operator names {len(self.layer_operators)} layers, but num_hidden_layers is {self.num_hidden_layers}; "
                "give one name, or one for each layer"
            )
