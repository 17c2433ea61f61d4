"""GraphformerConfig: the settings of the language model."""

# No `from __future__ import annotations` here: it turns the fields' types into strings, which
# `strict` does not check.

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from graphformer import _auto, backends
from graphformer.attention.build import KNOWN
from graphformer.attention.feed_forwards import FeedForward
from graphformer.attention.head import Head, refuse_first_alone
from graphformer.attention.relations import Relation
from graphformer.attention.relations import check as check_relations
from graphformer.attention.relations.base import refuse_unusable
from graphformer.attention.slot import KINDS, Slot, check_slot, from_spec, spec
from graphformer.errors import did_you_mean, number, require_flag, require_known, whole
from graphformer.models.language.known_settings import (
    OF_THE_HUB,
    check_rope,
    from_file,
    without_unknown,
)

OPERATORS = ("sum", "gin", "pna")

_SLOTS = {"head", "score", "threshold", "normalize", "feed_forward", "relations"}


def plain(value: Any) -> Any:
    """Slot values and heads in their plain form, as a config file holds them."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, Head):
        return value.spec()
    return spec(value) if isinstance(value, Slot) else value


def _per_layer(number: int | list[int] | tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    return (number,) * num_layers if isinstance(number, int) else tuple(number)


@strict
class GraphformerConfig(PreTrainedConfig):
    r"""Settings of :class:`GraphformerForCausalLM`; all keyword-only, defaults as in the paper's
    best model where it names one.

    Args:
        vocab_size: distinct tokens.
        hidden_size: width of the hidden states.
        intermediate_size: width of the gated feed-forward.
        num_hidden_layers: decoder blocks.
        num_attention_heads: heads of a block; each is one graph. A list has the number of each
            layer, and then ``head_dim`` is needed.
        num_key_value_heads: key heads, each shared by a group of query heads; as many as heads
            unless given. A list has the number of each layer.
        head_dim: width of a head, an even number; ``hidden_size // num_attention_heads`` unless
            given. Where the heads together are not ``hidden_size`` wide, ``value_projection`` and
            ``output_projection`` lead there and back; plain attention and PNA have both.
        operator: ``"sum"`` (plain attention), ``"gin"``, ``"pna"``; one name for all layers, or a
            list with one for each.
        mlp_ratio: gamma, hidden width of the heads' MLPs over the heads' width (GIN, PNA).
        sharpening: a trainable factor on the scores of GIN and PNA layers; plain attention has
            none.
        head: a :class:`~graphformer.Head` for all layers, or a list with one for each, in the place
            of ``score``, ``threshold``, ``top_k``, ``normalize`` and the projections; kept as
            dictionaries. Slots that it leaves out are the operator's usual ones.
        score: ``"dot"``, ``"differential"``, ``"pairwise"``, or ``{"pairwise": width}`` (see
            :mod:`graphformer.attention.scores`).
        threshold: keep edges whose weight exceeds it; ``None`` keeps all. Any other sparsifier is a
            dictionary of name and arguments, see
            :func:`graphformer.attention.sparsifiers.from_spec`: ``{"name": "reweigh", "curve":
            "relu", "tau": 0.1, "trainable": True}``.
        top_k: keep this many edges of each row; ``None`` keeps all. With both, an edge must pass
            both.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"``, or a dictionary:
            ``{"name": "sigmoid", "bias": "count"}``. Of any slot a value may be given too, and its
            dictionary is kept.
        relations: edges of the text beside every layer's attention graph, with trained weights that
            start at 0: ``[gf.Chain(3), gf.Repeats(1)]``
            (:mod:`graphformer.attention.relations`); kept as dictionaries.
        value_projection, output_projection: projections around the operator; ``None`` is the
            operator's own habit: GIN has neither, sum and PNA have both.
        operator_options: further arguments of each operator's layer: ``{"pna": {"aggregators":
            ["mean", "max"]}, "gin": {"mlp_dropout": 0.1}}``.
        feed_forward: ``"gated"``, or one that sends messages over the graph of the block's
            attention, which then builds its edges: ``"halfway"``, ``"multi_hop"``,
            ``"multi_aggregate"``, a dictionary of name and arguments, or a value of
            :mod:`graphformer.attention.feed_forwards`; or a list with one for each layer.
        initial_residual: every layer after the first takes ``a x + b x^(0)`` for its input, with
            ``x^(0)`` the embeddings and trained ``a`` and ``b``, which start at
            ``1 - initial_residual`` and ``initial_residual``
            (:class:`~graphformer.nn.InitialResidual`); ``None`` takes ``x``.
        max_position_embeddings: longest sequence the model is meant for.
        rope_parameters: rotary embeddings in transformers' form; ``{"rope_type": "default",
            "rope_theta": 10000.0}`` unless given.
        rms_norm_eps: added to the mean square in the blocks' norms.
        hidden_dropout, attention_dropout: probabilities; dropout after attention and feed-forward,
            and on the weights.
        initializer_range: standard deviation of fresh weights.
        tie_word_embeddings: the output layer is the embedding.
        use_cache: keep keys and node features while generating.
        pad_token_id, bos_token_id, eos_token_id: special tokens, where the tokenizer has them.
        backend, executor: who aggregates and how it is computed. They never change the answer.

    Raises:
        TypeError: a field that there is not, with the one that was probably meant.
        ValueError: an unknown operator, heads that do not divide, a list of operators of the wrong
            length, a number out of its range.
        StrictDataclassFieldValidationError: a value of the wrong type (huggingface_hub's error).
    """

    model_type = "graphformer"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "graphs"]

    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 1376
    num_hidden_layers: int = 8
    num_attention_heads: int | list[int] | tuple[int, ...] = 8
    num_key_value_heads: int | list[int] | tuple[int, ...] | None = None
    head_dim: int | None = None
    operator: str | list[str] | tuple[str, ...] = "gin"
    mlp_ratio: int | float = 0.5
    sharpening: bool = True
    score: str | dict[str, Any] | Slot = "dot"
    threshold: int | float | dict[str, Any] | Slot | None = None
    top_k: int | None = None
    normalize: str | dict[str, Any] | Slot = "softmax"
    head: dict[str, Any] | list[dict[str, Any] | Head] | Head | None = None
    relations: str | dict[str, Any] | list[Any] | tuple[Any, ...] | Relation | None = None
    value_projection: bool | None = None
    output_projection: bool | None = None
    operator_options: dict[str, dict[str, Any]] | None = None
    feed_forward: str | dict[str, Any] | Slot | list[str | dict[str, Any] | Slot] = "gated"
    initial_residual: int | float | None = None
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

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name != "head_dim" or value is not None:
            return value
        # what was not given follows hidden_size, also where that is changed later
        heads = self.num_attention_heads
        return self.hidden_size // heads if isinstance(heads, int) else None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, plain(value) if name in _SLOTS else value)

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs = without_unknown(self, kwargs)
        for name in ("num_attention_heads", "num_key_value_heads"):
            if isinstance(given := getattr(self, name), tuple):
                setattr(self, name, list(given))
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        theta = kwargs.pop("rope_theta", None)
        if self.rope_parameters is None and not kwargs.get("rope_scaling"):
            self.rope_parameters = {
                "rope_type": "default",
                "rope_theta": 10000.0 if theta is None else theta,
            }
        elif theta is not None:
            given = self.rope_parameters or kwargs["rope_scaling"]
            if given.setdefault("rope_theta", theta) != theta:
                raise ValueError(
                    f"rope_theta={theta} contradicts "
                    f"rope_parameters['rope_theta']={given['rope_theta']}: give one of them"
                )
        # `strict` looks at our own fields alone
        for name in ("output_hidden_states", "return_dict", "is_encoder_decoder"):
            if (flag := getattr(self, name, None)) is not None:
                require_flag(name, flag)
        super().__post_init__(**kwargs)
        _auto.register_models()
        # `strict` calls it too, but wraps the ValueError in an error of its own
        self.validate_architecture()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers' own. A field of a file that this version does not know is told in a
        warning, not refused: the file may come from another version.
        """
        wanted = kwargs.pop("return_unused_kwargs", False)
        token = from_file.set(True)
        try:
            config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        finally:
            from_file.reset(token)
        if wanted:  # transformers hands them on
            return config, unused
        for name in unused:
            if name not in OF_THE_HUB:
                raise TypeError(
                    "GraphformerConfig got an unknown setting "
                    f"{name!r}{did_you_mean(name, cls.__dataclass_fields__)}"
                )
        return config

    @property
    def layer_num_heads(self) -> tuple[int, ...]:
        """The number of heads of each layer."""
        return _per_layer(self.num_attention_heads, self.num_hidden_layers)

    @property
    def layer_num_key_value_heads(self) -> tuple[int, ...]:
        """The number of key heads of each layer."""
        given = self.num_key_value_heads
        return self.layer_num_heads if given is None else _per_layer(given, self.num_hidden_layers)

    @property
    def layer_operators(self) -> tuple[str, ...]:
        """The operator of each layer."""
        if isinstance(self.operator, str):
            return (self.operator,) * self.num_hidden_layers
        return tuple(self.operator)

    def validate_architecture(self) -> None:
        """Called by transformers once the fields are set: settings that contradict each other."""
        self._validate_numbers()
        self._validate_head_sizes()
        for name, options in (self.operator_options or {}).items():
            require_known("operator in operator_options", name, OPERATORS)
            if "relations" in options:
                raise ValueError(
                    f"operator_options[{name!r}] holds relations, which all layers share: give "
                    "them as relations=..."
                )
        unknown = sorted(set(self.layer_operators) - set(OPERATORS))
        if unknown:
            raise ValueError(
                f"unknown operator {', '.join(map(repr, unknown))}; known: {', '.join(OPERATORS)}"
            )
        if len(self.layer_operators) != self.num_hidden_layers:
            raise ValueError(
                f"operator names {len(self.layer_operators)} layers, but num_hidden_layers is "
                f"{self.num_hidden_layers}; give one name, or one for each layer"
            )
        if self.rope_parameters is not None:
            check_rope(self.rope_parameters)
            number(
                "rope_parameters['rope_theta']",
                self.rope_parameters.get("rope_theta", 10000.0),
                above=0.0,
            )
        if isinstance(self.score, dict) and len(self.score) != 1 and "name" not in self.score:
            raise ValueError(
                "score must hold one name and its width, as in {'pairwise': 16}, got "
                f"{self.score}"
            )
        if isinstance(self.score, dict) and "name" in self.score:
            from_spec("score", self.score)
        else:
            names = list(self.score) if isinstance(self.score, dict) else [self.score]
            require_known("score", str(names[0]), KINDS["score"])
        from_spec("normalize", self.normalize)
        self._check_heads()
        refuse_first_alone(self.layer_heads, self.initial_residual)
        if len(self.layer_feed_forwards) != self.num_hidden_layers:
            raise ValueError(
                f"feed_forward holds {len(self.layer_feed_forwards)}, but num_hidden_layers is "
                f"{self.num_hidden_layers}; give one, or one for each"
            )
        for one in self.layer_feed_forwards:
            made = check_slot("feed_forward", FeedForward, one)
            if made.reads_graph and self.executor == "flash":
                raise ValueError(
                    f"feed_forward={made.name!r} sends messages over the heads' graph, and "
                    "executor='flash' builds none: take executor='auto'"
                )
        refuse_unusable(self.text_relations, ("order", "ids"), "a language model")
        require_known("executor", self.executor, KNOWN)
        require_known("backend", self.backend, ("auto", *backends.NAMES))

    @property
    def layer_feed_forwards(self) -> tuple[Any, ...]:
        """The feed-forward of each layer, in its plain form."""
        if isinstance(self.feed_forward, (list, tuple)):
            return tuple(self.feed_forward)
        return (self.feed_forward,) * self.num_hidden_layers

    @property
    def layer_heads(self) -> tuple[Head | None, ...]:
        """The head of each layer; None where the other fields say what its slots hold."""
        if self.head is None:
            return (None,) * self.num_hidden_layers
        if isinstance(self.head, (list, tuple)):
            return tuple(Head.read(one) for one in self.head)
        return tuple(Head.read(self.head) for _ in range(self.num_hidden_layers))

    @property
    def text_relations(self) -> tuple[Relation, ...]:
        """The relations as values."""
        return check_relations(self.relations)

    def _check_heads(self) -> None:
        if self.head is None:
            return
        if len(self.layer_heads) != self.num_hidden_layers:
            raise ValueError(
                f"head holds {len(self.layer_heads)} heads, but num_hidden_layers is "
                f"{self.num_hidden_layers}; give one, or one for each"
            )
        defaults = type(self).__dataclass_fields__
        said = ["score", "threshold", "top_k", "normalize"]
        said += ["value_projection", "output_projection"]
        if any(one is not None and one.operator is not None for one in self.layer_heads):
            said += ["operator", "operator_options", "mlp_ratio"]
        for name in said:
            if getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"head and {name}={getattr(self, name)!r} are given: say it in one place, in "
                    "the head"
                )

    def _validate_head_sizes(self) -> None:
        """ValueError for numbers and widths of heads that do not fit."""
        given = self.__dict__["head_dim"]
        if given is not None:
            if whole("head_dim", given) % 2:
                raise ValueError(
                    f"head_dim {given} must be even: rotary embeddings turn pairs of channels"
                )
        elif not isinstance(self.num_attention_heads, int):
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} has the number of each layer, "
                "and head_dim, the width of a head, does not follow from that: give it"
            )
        elif self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be num_attention_heads "
                f"{self.num_attention_heads} times an even head width (rotary embeddings turn "
                "pairs of channels), or give head_dim"
            )
        for name in ("num_attention_heads", "num_key_value_heads"):
            numbers = getattr(self, name)
            if isinstance(numbers, list) and len(numbers) != self.num_hidden_layers:
                raise ValueError(
                    f"{name} holds {len(numbers)}, but num_hidden_layers is "
                    f"{self.num_hidden_layers}; give one, or one for each"
                )
        for i, (heads, kv_heads) in enumerate(
            zip(self.layer_num_heads, self.layer_num_key_value_heads, strict=True)
        ):
            where = "" if isinstance(self.num_attention_heads, int) else f" of layer {i}"
            if kv_heads < 1 or heads % kv_heads:
                raise ValueError(
                    f"num_attention_heads {heads}{where} is not a multiple of "
                    f"num_key_value_heads {kv_heads}"
                )

    def _validate_numbers(self) -> None:
        """ValueError for a number out of its range; strict has seen to the types."""
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "max_position_embeddings",
        )
        for name in sizes:
            whole(name, getattr(self, name))
        heads = self.num_attention_heads
        for one in [heads] if isinstance(heads, int) else heads:
            whole("num_attention_heads", one)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if isinstance(getattr(self, name), int):
                whole(name, getattr(self, name), 0)
        if self.top_k is not None:
            whole("top_k", self.top_k)
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0 <= number(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be a probability in 0..1, got {getattr(self, name)}")
        for name in ("rms_norm_eps", "initializer_range"):
            number(name, getattr(self, name), least=0.0)
        number("mlp_ratio", self.mlp_ratio, above=0.0)
        if self.threshold is not None and not isinstance(self.threshold, dict):
            number("threshold", self.threshold, least=0.0, hint="; None keeps all edges")
