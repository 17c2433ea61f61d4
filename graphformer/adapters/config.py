"""What a Sparse-GIN adapter is: the settings that are saved beside its weights."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from packaging.version import Version
from peft import PeftConfig

from graphformer.adapters.choosing import check_names
from graphformer.adapters.forms import BOTTLENECKS, FORMS, MESSAGES, PAPER, Form
from graphformer.adapters.registration import peft_type
from graphformer.attention.relations import Chain, Relation
from graphformer.attention.relations import check as check_relations
from graphformer.attention.relations.base import refuse_unusable
from graphformer.attention.slot import spec
from graphformer.attention.sparsifiers import Sparsifier, Threshold, from_spec, trainable
from graphformer.attention.sparsifiers.reweigh import Reweigh
from graphformer.errors import (
    did_you_mean,
    number,
    probability,
    require_flag,
    require_known,
    whole,
)
from graphformer.nn.sparse_gin import check_settings


def _paper_code() -> Sparsifier:
    """w = sigmoid(10 (a - 0.1)), cut at 0.6: what the paper's code does."""
    return Reweigh("sigmoid", 0.1, beta=10, keep=Threshold(0.1 + math.log(0.6 / 0.4) / 10))


NAMED = {"sigmoid": _paper_code}
"""The values of ``threshold`` that are names."""


@dataclass
class SparseGINConfig(PeftConfig):
    r"""An adapter for a frozen, pre-trained transformer, in one of two forms.

    ``form="paper"``: Sparse-GIN (arXiv 2501.02393, section 2.3) beside each attention layer.

    .. math::
        h_i = \mathrm{residual}_i + \mathrm{attention}_i, \qquad
        a_{ij} = \min\Big(\sum_h A^h_{ij},\ \mathrm{clamp}\Big), \qquad
        \mathrm{out}_i = h_i + \lambda\, \mathrm{RMSNorm}\big(
        P_\mathrm{out}\,\mathrm{GIN}(P_\mathrm{in} h, a_{ij} > \tau)\big)_i

    ``A`` is the frozen model's own attention (its rotary positions, windows, soft caps and sinks
    included), and the feed-forward block sees ``out``. A message goes from key to query; a causal
    model stays causal. No gradient goes through the graph: derivatives, first and second, are those
    with each layer's edges and weights held fixed.

    ``form="bottlenecks"``: one for all linear layers that read the same input ``x``, and relations
    between tokens, which see the ids alone.

    .. math::
        u_i = A x_i, \qquad u'_i = u_i + \sum_{k=1}^{K} c_k \odot u_{i-k}, \qquad
        y^m_i \mathrel{+}= s\, B_m\, \mathrm{act}(u'_i), \qquad
        h^l_i \mathrel{+}= \sum_R s_{l,R} \odot \sum_{j \in R(i)} w_{ij}\, \mathrm{RMSNorm}(e_j)

    for each linear layer :math:`m` of the input and after each layer :math:`l`, with the frozen
    embeddings :math:`e`, and :math:`B`, :math:`c`, :math:`s_{l,R}` of 0 at the start. With
    ``activation=None`` and without relations it can be merged into the weights, as LoRA can.

    Each form has arguments of its own; those of the other one are refused.

    Args:
        form: ``"paper"`` or ``"bottlenecks"``.
        rank: of the bottlenecks, 8 unless given.
        rank_pattern: other ranks for some linear layers, ``{"self_attn.o_proj": 6}``, as for LoRA;
            those of one input have one.
        scaling: s, a factor of what they add (LoRA's alpha over rank); 2 unless given.
        relations: of tokens. ``gf.Chain(k)`` runs inside the bottlenecks (both ways in an encoder,
            with 2k weights c). Any other one sends the embeddings after each layer, such as
            ``gf.Repeats(n)``, what followed the last time; in causal stacks alone. None:
            ``Chain(3)`` and, in causal models, ``Repeats`` of 1 (latest and mean), 2 and 3 tokens;
            none for images. ``[]``: none.
        messages: None, or a dictionary of arguments of the paper's form (``{}`` for all defaults):
            its network for each head on the frozen model's graph as well, with a token's own
            features kept and without a norm at its end.
        hidden_dim: width of the network.
        depth: its layers, hops that a message can travel within one layer of the model.
        threshold: which edges there are. A number: those with ``a > threshold``, weight ``a``.
            ``"sigmoid"``: weight ``sigmoid(10 (a - 0.1))``, those above 0.6, as in the paper's
            code. A dictionary: any sparsifier of :mod:`graphformer.attention`, such as
            ``{"name": "top_k", "k": 4}``.
        direction: ``"key_to_query"``, or ``"self"``: only the edges of a token with itself, so that
            no message passes between tokens (which is how the published code runs).
        graph: ``"merged"``, one graph for all heads; ``"per_head"``, a graph and a network of width
            ``hidden_dim`` for each head, on the head's slice of h.
        clamp: largest merged weight; ``None`` for none.
        scale_start, scale_end: lambda of the first and of the last layer, linear between them; of
            each stack where there are two (encoder and decoder).
        train_scale: whether lambda is trained.
        init_identity: a fresh adapter changes nothing: the gain of its norm starts at 0 (``P_out``
            where there is no norm), as LoRA's B does. With ``False`` it starts as the paper's does,
            where only a lambda of 0 makes a layer the identity.
        activation, mlp_ratio, hidden_norm, residual, dropout, output_norm, self_weight, input_norm:
            as in :class:`graphformer.nn.SparseGIN`. Of bottlenecks: activation ``"silu"``, the
            default there, or None for none; dropout of their input.
        placement: ``"before_mlp"``: on the stream that the feed-forward block sees;
            ``"after_mlp"``: on the stream that leaves it; ``"beside_mlp"``: for blocks whose
            attention and feed-forward read the same residual (GPT-NeoX, Phi, Cohere). There the
            network sees residual + attention too, its message joins the layer's output, and the
            next layer is the first to see it.
        target_modules: names (or a regular expression) of attention modules, ``["self_attn"]``; of
            bottlenecks those of linear layers inside of the model's layers, ``["q_proj",
            "v_proj"]``. All of them if left out.
        exclude_modules, layers_to_transform, layers_pattern: which of those are left out, as for
            LoRA.
        modules_to_save: modules of the base model that are trained and saved as well.
        format_version: of the saved adapter: 1 of the paper's form, 2 of bottlenecks.

    Raises:
        ValueError: a value out of range, an unknown name, or an adapter that a newer version wrote.
        TypeError: a value of another kind, or a field that there is not.
    """

    hidden_dim: int = field(default=16, metadata={"help": "Width of the network."})
    depth: int = field(default=1, metadata={"help": "Layers of the network."})
    threshold: float | str | dict[str, Any] = field(
        default=0.2, metadata={"help": "Which edges there are: a number, a name or a sparsifier."}
    )
    direction: str = field(default="key_to_query", metadata={"help": "'key_to_query' or 'self'."})
    graph: str = field(default="merged", metadata={"help": "'merged' or 'per_head'."})
    clamp: float | None = field(default=1.0, metadata={"help": "Largest merged weight."})
    scale_start: float = field(default=0.0, metadata={"help": "Scale of the first layer."})
    scale_end: float = field(default=0.5, metadata={"help": "Scale of the last layer."})
    train_scale: bool = field(default=True, metadata={"help": "Whether the scales are trained."})
    init_identity: bool = field(
        default=True, metadata={"help": "Whether a fresh adapter changes nothing."}
    )
    activation: str | None = field(
        default="prelu", metadata={"help": "Activation of the network, or of bottlenecks."}
    )
    mlp_ratio: float | None = field(
        default=1.0,
        metadata={"help": "Hidden width of its MLP over hidden_dim; None for one linear map."},
    )
    hidden_norm: bool = field(default=False, metadata={"help": "LayerNorm inside its MLP."})
    residual: bool = field(default=False, metadata={"help": "Whether its layers add their input."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout after each of its layers."})
    output_norm: bool = field(default=True, metadata={"help": "RMSNorm at its end."})
    self_weight: float = field(
        default=0.0,
        metadata={"help": "1 keeps a token's own features, as GIN does; 0 is the paper's."},
    )
    input_norm: bool = field(
        default=False,
        metadata={"help": "RMS-normalise the stream before the network; not in the paper."},
    )
    placement: str = field(
        default="before_mlp", metadata={"help": "'before_mlp', 'after_mlp' or 'beside_mlp'."}
    )
    form: str = field(default=PAPER, metadata={"help": "'paper' or 'bottlenecks'."})
    rank: int = field(default=None, metadata={"help": "Of bottlenecks."})  # type: ignore[assignment]
    rank_pattern: dict[str, int] | None = field(
        default=None, metadata={"help": "Other ranks, by names of linear layers."}
    )
    scaling: float = field(default=None, metadata={"help": "Factor of bottlenecks."})  # type: ignore[assignment]
    relations: list[Any] | None = field(
        default=None, metadata={"help": "Relations between tokens; those of the model if left out."}
    )
    messages: dict[str, Any] | None = field(
        default=None, metadata={"help": "Messages over the model's own graph, beside bottlenecks."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Attention modules, or linear layers; all if left out."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Attention modules to leave out."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Numbers of the layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, if not the usual."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and save."}
    )
    format_version: int = field(
        default=FORMS[PAPER].version, metadata={"help": "Version of the saved form."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        whole("format_version", self.format_version)
        if self.format_version > self._form.version:
            raise ValueError(
                f"this Sparse-GIN adapter has format version {self.format_version} and this code "
                f"reads up to {self._form.version}: it was saved by a newer graphformer, so "
                "update with pip install -U graphformer"
            )
        if self.format_version < self._form.version:
            raise ValueError(
                f"format_version={self.format_version} knows no form={self.form!r}, which has "
                f"{self._form.version}: leave it out"
            )
        check_names(self)
        require_flag("inference_mode", self.inference_mode)
        if self.form == BOTTLENECKS:
            self._check_bottlenecks()
        else:
            self._check_paper()

    def _check_paper(self) -> None:
        check_settings(**self.network())
        require_known("direction", self.direction, ("key_to_query", "self"))
        require_known("graph", self.graph, ("merged", "per_head"))
        require_known("placement", self.placement, ("before_mlp", "after_mlp", "beside_mlp"))
        for name in ("train_scale", "init_identity"):
            require_flag(name, getattr(self, name))
        for name in ("scale_start", "scale_end"):
            number(name, getattr(self, name))
        if self.scale_start == self.scale_end == 0 and not self.train_scale:
            raise ValueError(
                "scale_start and scale_end are 0 and train_scale is False: such an adapter can "
                "never change anything"
            )
        if self.clamp is not None:
            number("clamp", self.clamp, above=0)
            if self.graph == "per_head" and self.clamp < 1:
                raise ValueError(
                    f"clamp={self.clamp} limits the merged weight, and graph='per_head' merges "
                    "none: leave it out, or give graph='merged'"
                )
        self._check_threshold()

    def _check_bottlenecks(self) -> None:
        whole("rank", self.rank)
        number("scaling", self.scaling)
        if self.scaling == 0:
            raise ValueError("scaling=0 leaves nothing of the bottlenecks: give another factor")
        probability("dropout", self.dropout)
        if self.activation is not None:
            require_known("activation", self.activation, ("silu",))
        if self.rank_pattern is not None:
            if not isinstance(self.rank_pattern, Mapping):
                raise TypeError(
                    "rank_pattern must be a dictionary of names and ranks, got "
                    f"{self.rank_pattern!r}"
                )
            for name, rank in self.rank_pattern.items():
                if not isinstance(name, str):
                    raise TypeError(f"rank_pattern must have names for keys, got {name!r}")
                whole(f"rank_pattern[{name!r}]", rank)
            self.rank_pattern = dict(self.rank_pattern)
        if self.relations is not None:
            self.set_relations(check_relations(self.relations))
        self.messages_config()

    @property
    def _form(self) -> Form:
        return FORMS[self.form]

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the arguments of the config's own form."""
        known = super().to_dict()
        return {name: value for name, value in known.items() if name not in self._form.foreign}

    def set_relations(self, relations: Sequence[Relation]) -> None:
        """Keep relations in their plain form.

        Raises:
            ValueError: those that a text has not, or two chains.
        """
        refuse_unusable(relations, ("order", "ids"), "an adapter of a language model")
        if sum(isinstance(one, Chain) for one in relations) > 1:
            raise ValueError(
                "relations hold two chains: one Chain(k) has the edges of all distances up to k"
            )
        self.relations = [spec(one) for one in relations]

    def checked_relations(self) -> tuple[Relation, ...]:
        """The relations as values."""
        return check_relations(self.relations)

    def messages_config(self) -> SparseGINConfig | None:
        """The paper's form that ``messages`` means.

        Raises:
            ValueError, TypeError: an argument that it has not, or out of range.
        """
        if self.messages is None:
            return None
        if not isinstance(self.messages, Mapping):
            raise TypeError(
                "messages must be a dictionary of arguments of form='paper', such as "
                f"{{'hidden_dim': 4}}, or None for none; got {self.messages!r}"
            )
        own = (*FORMS[PAPER].own, "activation", "dropout")
        for name in self.messages:
            if name not in own:
                raise TypeError(
                    f"messages has no argument {name!r}{did_you_mean(str(name), own)}; it has "
                    f"{', '.join(own)}"
                )
        self.messages = dict(self.messages)
        asked = {**MESSAGES, "dropout": self.dropout, **self.messages}
        return SparseGINConfig(**asked, inference_mode=self.inference_mode)

    def network(self) -> dict[str, Any]:
        """Those of the settings that :class:`~graphformer.nn.SparseGIN` has too."""
        return {name: getattr(self, name) for name in inspect.signature(check_settings).parameters}

    def _check_threshold(self) -> None:
        """That there can be edges."""
        if isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool):
            number("threshold", self.threshold, least=0)
        self.sparsifier(num_heads=1)
        if isinstance(self.threshold, (str, Mapping)):
            return
        largest = 1.0 if self.graph == "per_head" else self.clamp
        if largest is not None and self.threshold >= largest:
            raise ValueError(
                f"threshold={self.threshold} leaves no edge: no weight of graph={self.graph!r} "
                f"exceeds {largest:g}" + ("" if self.graph == "per_head" else " (clamp)")
            )

    def sparsifier(self, num_heads: int) -> Sparsifier:
        """The sparsifier that ``threshold`` means."""
        if isinstance(self.threshold, str):
            require_known("threshold", self.threshold, NAMED)
            return NAMED[self.threshold]()
        if isinstance(self.threshold, Mapping):
            made = from_spec(self.threshold, num_heads)
            if trainable(made):
                raise ValueError(
                    f"threshold={dict(self.threshold)} is trainable, but the graph of a frozen "
                    "model has no gradient"
                )
            return made
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise ValueError(
                f"threshold must be a number, one of {', '.join(NAMED)} or a dictionary, got "
                f"{self.threshold!r}"
            )
        return Threshold(float(self.threshold))

    def scale(self, position: int, count: int) -> float:
        """Lambda of layer ``position`` of ``count`` at the start of training."""
        return self.scale_start + (self.scale_end - self.scale_start) * position / max(count - 1, 1)

    def graph_key(self) -> str:
        """Equal for adapters that run on the same graph."""
        return json.dumps([self.threshold, self.direction, self.graph, self.clamp], sort_keys=True)


_dataclass_init = SparseGINConfig.__init__


@functools.wraps(_dataclass_init)
def _init(self: SparseGINConfig, *args: Any, **kwargs: Any) -> None:
    """Unknown fields are refused: PEFT takes a misspelt one in a file for that of a newer version,
    and goes on without it.
    """
    form = kwargs.get("form", PAPER)
    require_known("form", form, FORMS)
    foreign = FORMS[form].foreign
    known = [one.name for one in fields(SparseGINConfig) if one.init]
    saved_by, here = kwargs.get("peft_version"), version("peft")
    newer = isinstance(saved_by, str) and Version(saved_by.partition("@")[0]) > Version(here)
    # a newer PEFT may know more: then its own warning names the fields
    for name in () if newer else kwargs.keys() - set(known):
        close = difflib.get_close_matches(name, known, 1)
        raise TypeError(
            f"SparseGINConfig has no field {name!r}"
            + (f", did you mean {close[0]!r}?" if close else ".")
            + " Its own are "
            f"{', '.join(name for name in SparseGINConfig.__annotations__ if name not in foreign)}"
        )
    for name in foreign:
        if kwargs.get(name) is not None:
            raise TypeError(
                f"{name}={kwargs[name]!r} is of form={FORMS[form].other!r}, and this is "
                f"form={form!r}: leave it out, or give form={FORMS[form].other!r}"
            )
    _dataclass_init(self, *args, **{**FORMS[form].defaults, **dict.fromkeys(foreign), **kwargs})


SparseGINConfig.__init__ = _init  # type: ignore[method-assign]
