"""The reference's parameters under this library's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from graphformer.compat.xgpt.settings import Settings
from graphformer.compat.xgpt.slots import (
    query_divisor,
    reference_lambda,
    score,
    sharpening,
    trains_threshold,
)

DEAD = ("residual_epsilon.0", "rmsnorm.weight")
"""Parameters that the reference creates and never uses."""

RENAMED = {
    "q_proj.weight": "q_proj.weight",
    "k_proj.weight": "k_proj.weight",
    "v_proj.weight": "v_proj.weight",
    "o_proj.weight": "o_proj.weight",
    "q_proj_2.weight": "differential.q_proj.weight",
    "k_proj_2.weight": "differential.k_proj.weight",
    "lambda_param.0": "differential.amount",
    "sharpening_parameters.0": "sharpening",
    "threshold.0": "sparsify.tau",
    "groupnorm.weight": "sparsify.weight",
    "groupnorm.bias": "sparsify.bias",
    "mlp_scoring.0.bias": "pairwise.receiver.bias",
    "mlp_scoring.2.weight": "pairwise.out.weight",
    "mlp_scoring.2.bias": "pairwise.out.bias",
}

OF_HEADS = {
    "gin_layers": {
        "epsilon": "eps",
        "mlp.0.weight": "mlp.weight1",
        "mlp.0.bias": "mlp.bias1",
        "mlp.2.weight": "mlp.norm",
        # the same tensor under a second name; a file may hold either
        "normlayer.weight": "mlp.norm",
        "mlp.4.weight": "mlp.weight2",
        "mlp.4.bias": "mlp.bias2",
    },
    "aggregator_mlps": {"0.weight": "mlp.weight1", "2.weight": "mlp.weight2"},
}


def attention_state(
    settings: Settings, state: Mapping[str, Tensor], *, layer_idx: int = 0
) -> dict[str, Tensor]:
    """State dict of one attention layer, as :func:`graphformer.compat.xgpt.attention` names it.

    The softmax's temperature goes into the sharpening, or into the queries where there is none. The
    two halves of the pair scoring's first layer come apart. Parameters that the reference never
    uses are left out.

    Raises:
        ValueError: a parameter of an unknown name, or one that these settings do not have.
    """
    out: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        group, _, rest = name.partition(".")
        if name in DEAD:
            continue
        if (
            group in OF_HEADS
            and (match := re.fullmatch(r"(\d+)\.(.+)", rest))
            and match[2] in OF_HEADS[group]
        ):
            heads.setdefault(OF_HEADS[group][match[2]], {})[int(match[1])] = (
                value.T if value.ndim == 2 else value
            )
        elif name == "mlp_scoring.0.weight":
            out["pairwise.receiver.weight"], out["pairwise.sender.weight"] = value.chunk(2, dim=1)
        elif name in RENAMED:
            out[RENAMED[name]] = value
        else:
            why = (
                "biases of projections are not supported"
                if name.endswith(".bias")
                else "no attention layer of the reference has it"
            )
            raise ValueError(f"parameter {name!r} cannot be read: {why}")
    for name, values in heads.items():
        stacked = torch.stack([values[head] for head in range(len(values))])
        out[f"operator.{name}"] = (
            stacked.unsqueeze(1) if name.startswith("mlp.") and stacked.ndim == 2 else stacked
        )
    # they exist beside the network that scores, and nothing reads them
    if score(settings) == "pairwise":
        out = {
            name: value
            for name, value in out.items()
            if name not in ("q_proj.weight", "k_proj.weight")
        }
    for name in ("sharpening", "differential.amount"):
        if name in out:
            out[name] = out[name].reshape(1)
    if sharpening(settings) is False:
        out.pop("sharpening", None)
    if "sharpening" in out:
        out["sharpening"] = out["sharpening"] / settings.attention_GIN_MLP_GIN_softmax_temperature
    for name in ("q_proj.weight", "differential.q_proj.weight"):
        if name in out:
            out[name] = out[name] / query_divisor(settings)
    if not trains_threshold(settings):  # the reference creates it for every mode
        out.pop("sparsify.tau", None)
    if "sparsify.weight" in out:
        factor = 1 - reference_lambda(layer_idx)
        out["sparsify.weight"], out["sparsify.bias"] = (
            out["sparsify.weight"] * factor,
            out["sparsify.bias"] * factor,
        )
        if "sparsify.tau" in out:
            out["sparsify.then.tau"] = out.pop("sparsify.tau")
    return out
