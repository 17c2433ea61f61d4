"""The reference's attention layers, built from the slots of this library."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.sparsifiers import Sparsifier, from_spec
from graphformer.compat.xgpt.settings import Settings
from graphformer.compat.xgpt.slots import (
    OPERATORS,
    check_quirks,
    normalizer,
    operator_options,
    query_divisor,
    reference_lambda,
    score,
    sharpening,
    sparsifier_spec,
)
from graphformer.compat.xgpt.weights import attention_state
from graphformer.nn import GINAttention, GraphAttention, PNAAttention, PNAOperator, SumAttention


def attention(
    settings: Settings,
    *,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    layer_idx: int = 0,
    rms_norm_eps: float = 1e-6,
    quirks: Collection[str] = (),
    sparsify: Sparsifier | None = None,
    **options: Any,
) -> GraphAttention:
    """An attention layer with what these settings mean, repaired unless a quirk is asked for.

    Args:
        settings: see :func:`read_settings`.
        layer_idx: place of the layer, from 0; differential attention's factor and group norm depend
            on it.
        rms_norm_eps: of the Llama config; the heads' MLPs use it.
        quirks: faults of the reference to keep: ``"own_max"``, ``"first_token"``, ``"map_norm"``
            (see ``slots.QUIRKS``).
        sparsify: in the place of the settings' threshold mode, for instance a top-k of a fixed
            number.
        options: further arguments of the layer: ``backend``, ``executor``, ``is_causal``, ...
    """
    check_quirks(quirks)
    operator = OPERATORS[settings.use_GNN_from_attention]
    heads = (hidden_size, num_heads, num_kv_heads)
    options = {"layer_idx": layer_idx, **options}
    if operator == "sum":
        return SumAttention(*heads, **options)
    spec = sparsifier_spec(settings, quirks)
    if sparsify is None and spec is not None:
        sparsify = from_spec(spec, num_heads)
        if spec["name"] == "normalize_weights":
            # the reference multiplies by the constant 1 - lambda_init after the norm
            with torch.no_grad():
                sparsify.weight *= 1 - reference_lambda(layer_idx)  # type: ignore[attr-defined]
    options |= {
        "normalize": normalizer(settings),
        "sparsify": sparsify,
        "sharpening": sharpening(settings),
    }
    options |= operator_options(settings, quirks, rms_norm_eps)
    layer = assembled(settings, operator, heads, options, quirks)
    with torch.no_grad():
        for projection in (
            layer.q_proj,
            None if layer.differential is None else layer.differential.q_proj,
        ):
            if projection is not None:
                projection.weight /= query_divisor(settings)
    return layer


def assembled(
    settings: Settings,
    operator: str,
    heads: tuple[int, int, int | None],
    options: dict[str, Any],
    quirks: Collection[str],
) -> GraphAttention:
    """The layer of a graph operator, its slots already chosen."""
    ratio = float(settings.attention_GIN_MLP_multiplier)
    if operator == "pna":
        options["aggregators"], options["scalers"] = (
            tuple(options["aggregators"]),
            tuple(options["scalers"]),
        )
        layer = PNAAttention(*heads, ratio, **options)
        if "first_token" in quirks and settings.use_GNN_from_attention == "LlamaAttentionPNA_LM":
            layer.operator = FirstTokenOperator(
                layer.operator, settings.attention_GIN_MLP_GIN_threshold_value
            )
        return layer
    options["output_projection"] = settings.attention_GIN_MLP_o_proj_at_end
    options["score"] = score(settings)
    if options["score"] == "pairwise":
        options["score_width"] = settings.attention_GIN_MLP_scoring_hidden_dim
    return GINAttention(*heads, ratio, **options)


def load_attention(
    settings: Settings, state: Mapping[str, Tensor], *, layer_idx: int = 0, **arguments: Any
) -> GraphAttention:
    """:func:`attention` with the weights of one of the reference's attention layers. Arguments as
    there.
    """
    if "threshold.0" in state:  # neighbours by norm are above the threshold that was trained
        settings = dataclasses.replace(
            settings, attention_GIN_MLP_GIN_threshold_value=float(state["threshold.0"])
        )
    layer = attention(settings, layer_idx=layer_idx, **arguments)
    converted = attention_state(settings, state, layer_idx=layer_idx)
    if isinstance(layer.operator, FirstTokenOperator):
        converted = {
            name.replace("operator.", "operator.operator."): value
            for name, value in converted.items()
        }
    layer.load_state_dict(converted)
    return layer


class FirstTokenOperator(PNAOperator):
    """PNA_LM as the reference runs it: without a neighbour above tau a receiver takes the first
    token's value, without any edge its own.
    """

    def __init__(self, operator: nn.Module, tau: float) -> None:
        nn.Module.__init__(self)
        assert isinstance(operator, PNAOperator)
        self.operator, self.above = operator, f"degree@{tau!r}"
        self.aggregators, self.scalers, self.delta = operator.aggregators, operator.scalers, None
        self.reductions = (*operator.reductions, "degree", self.above)

    def reset_parameters(self) -> None:
        self.operator.reset_parameters()

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        instead = torch.where(reduced["degree"] == 0, own, own[:, :, :1])
        alone = reduced[self.above] == 0
        filled = {
            name: torch.where(alone, instead, value) if "_norm@" in name else value
            for name, value in reduced.items()
        }
        return self.operator(own, filled)
