"""What a Sparse-GIN adapter is: the settings that are saved beside its weights."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

from packaging.version import Version
from peft import PeftConfig

from graphformer.adapters.registration import peft_type
from graphformer.attention.sparsifiers import Sparsifier, Threshold, from_spec, trainable
from graphformer.attention.sparsifiers.reweigh import Reweigh
from graphformer.errors import number, require_flag, require_known, whole
from graphformer.nn.sparse_gin import check_settings

FORMAT = 1
"""The version of the settings and weights that this code writes, and the newest that it reads."""


def _paper_code() -> Sparsifier:
    """w = sigmoid(10 (a - 0.1)), cut at 0.6: what the paper's code does."""
    return Reweigh("sigmoid", 0.1, beta=10, keep=Threshold(0.1 + math.log(0.6 / 0.4) / 10))


NAMED = {"sigmoid": _paper_code}
"""The values of ``threshold`` that are names."""


@dataclass
class SparseGINConfig(PeftConfig):
    r"""Sparse-GIN (arXiv 2501.02393, section 2.3) beside each attention layer of a frozen model.

    .. math::
        h_i = \mathrm{residual}_i + \mathrm{attention}_i, \qquad
        a_{ij} = \min\Big(\sum_h A^h_{ij},\ \mathrm{clamp}\Big), \qquad
        \mathrm{out}_i = h_i + \lambda\, \mathrm{RMSNorm}\big(
        P_\mathrm{out}\,\mathrm{GIN}(P_\mathrm{in} h, a_{ij} > \tau)\big)_i

    ``A`` is the frozen model's own attention (its rotary positions, windows, soft caps and sinks
    included), and the feed-forward block sees ``out``. A message goes from key to query; a causal
    model stays causal.

    Args:
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
            as in :class:`graphformer.nn.SparseGIN`.
        placement: ``"before_mlp"``: on the stream that the feed-forward block sees;
            ``"after_mlp"``: on the stream that leaves it; ``"beside_mlp"``: for blocks whose
            attention and feed-forward read the same residual (GPT-NeoX, Phi, Cohere). There the
            network sees residual + attention too, its message joins the layer's output, and the
            next layer is the first to see it.
        target_modules: names (or a regular expression) of attention modules, ``["self_attn"]``; all
            of them if left out.
        exclude_modules, layers_to_transform, layers_pattern: which of those are left out, as for
            LoRA.
        modules_to_save: modules of the base model that are trained and saved as well.
        format_version: of the saved adapter.

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
    activation: str = field(default="prelu", metadata={"help": "Activation of the network."})
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
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Attention modules; all if left out."}
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
    format_version: int = field(default=FORMAT, metadata={"help": "Version of the saved form."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        whole("format_version", self.format_version)
        if self.format_version > FORMAT:
            raise ValueError(
                f"this Sparse-GIN adapter has format version {self.format_version} and this code "
                f"reads up to {FORMAT}: it was saved by a newer graphformer, so update with pip "
                "install -U graphformer"
            )
        self._check_modules()
        check_settings(**self.network())
        require_known("direction", self.direction, ("key_to_query", "self"))
        require_known("graph", self.graph, ("merged", "per_head"))
        require_known("placement", self.placement, ("before_mlp", "after_mlp", "beside_mlp"))
        for name in ("train_scale", "init_identity", "inference_mode"):
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

    def network(self) -> dict[str, Any]:
        """Those of the settings that :class:`~graphformer.nn.SparseGIN` has too."""
        return {name: getattr(self, name) for name in inspect.signature(check_settings).parameters}

    def _check_modules(self) -> None:
        """Which modules: names, numbers, and one way of choosing them."""
        for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
            value = getattr(self, name)
            if value is None:
                continue
            text = name != "modules_to_save" and isinstance(value, str)
            if not text and not (
                isinstance(value, (list, tuple, set)) and all(isinstance(one, str) for one in value)
            ):
                form = "" if name == "modules_to_save" else "a text or "
                raise TypeError(f"{name} must be {form}a list of names, got {value!r}")
            if (not value and name == "target_modules") or "" in ([value] if text else value):
                raise ValueError(
                    f"{name}={value!r} names no module: leave it out, or give the names"
                )
            if not text:  # PEFT appends to modules_to_save
                setattr(
                    self,
                    name,
                    set(value) if name in ("target_modules", "exclude_modules") else list(value),
                )
        numbers = self.layers_to_transform
        if numbers is not None:
            numbers = [numbers] if isinstance(numbers, int) else numbers
            if not isinstance(numbers, (list, tuple, set, range)):
                raise TypeError(
                    f"layers_to_transform must be a number or a list of numbers, got {numbers!r}"
                )
            if not numbers:
                raise ValueError(
                    "layers_to_transform is empty, which leaves no layer: leave it out for all, or "
                    "give the numbers"
                )
            for one in numbers:
                whole("layers_to_transform", one, 0)
            if not isinstance(self.layers_to_transform, int):
                self.layers_to_transform = list(numbers)  # as it is saved
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform picks among names: with a regular expression in "
                "target_modules, say it there"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says where layers_to_transform counts: give both")

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
            f"{', '.join(one for one in known if one in SparseGINConfig.__annotations__)}"
        )
    _dataclass_init(self, *args, **kwargs)


SparseGINConfig.__init__ = _init  # type: ignore[method-assign]
