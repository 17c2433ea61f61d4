"""The parameter-matched twin: the same model with another operator and as many parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch

from graphformer.models.language.configuration import GraphformerConfig
from graphformer.models.language.model import GraphformerForCausalLM


def count_parameters(config: GraphformerConfig) -> int:
    """Parameters of the language model of these settings, tied ones once; no memory is taken."""
    with torch.device("meta"):
        model = GraphformerForCausalLM(config)
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def parameter_matched(
    config: GraphformerConfig, operator: str | list[str] = "sum", **changes: Any
) -> GraphformerConfig:
    """The settings with another operator (and any further changes), the feed-forward width taking
    up the difference.

    The width is the one whose parameter count comes closest to that of ``config``.

    Raises:
        ValueError: the operator alone has more parameters than the whole of ``config``.
    """
    target = count_parameters(config)
    twin = copy.deepcopy(config).to_dict()
    twin.update(operator=operator, **changes)

    def sized(width: int) -> GraphformerConfig:
        return GraphformerConfig(**{**twin, "intermediate_size": width})

    smallest = count_parameters(sized(1))
    step = count_parameters(sized(2)) - smallest  # the count is linear in the width
    width = 1 + round((target - smallest) / step)
    if width < 1:
        raise ValueError(
            f"operator {operator!r} cannot match {target:,} parameters: without a feed-forward it "
            f"already has {smallest:,}"
        )
    return sized(width)
