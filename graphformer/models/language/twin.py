"""The parameter-matched twin: the same model with another operator and as many parameters."""

from __future__ import annotations

import copy
import math
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

    def too_large(smallest: int) -> ValueError:
        return ValueError(
            f"operator {operator!r} cannot match {target:,} parameters: without a feed-forward it "
            f"already has {smallest:,}"
        )

    kinds = {one["name"] if isinstance(one, dict) else one for one in sized(1).layer_feed_forwards}
    if kinds == {"gated"}:  # the count is linear in the width
        smallest = count_parameters(sized(1))
        width = 1 + round((target - smallest) / (count_parameters(sized(2)) - smallest))
        if width < 1:
            raise too_large(smallest)
        return sized(width)
    step = math.lcm(*config.layer_num_heads)  # others give each head a slice of the width
    low, high = 1, 2
    if (smallest := count_parameters(sized(step))) > target:
        raise too_large(smallest)
    while count_parameters(sized(step * high)) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        below = count_parameters(sized(step * middle)) < target
        low, high = (middle, high) if below else (low, middle)
    return min(
        (sized(step * one) for one in (low, high)),
        key=lambda one: abs(count_parameters(one) - target),
    )
