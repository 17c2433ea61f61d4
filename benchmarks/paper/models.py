"""From a row to its model: the standard transformer's size, whatever the operator."""

from __future__ import annotations

from typing import Any

import graphformer as gf
from benchmarks.paper.settings import Row, Scale
from graphformer.models.language.twin import count_parameters

TOLERANCE = 0.01


def standard(scale: Scale, vocab_size: int, longest: int) -> gf.GraphformerConfig:
    """The standard transformer of this scale, to which every row is matched."""
    return gf.GraphformerConfig(
        vocab_size=vocab_size,
        hidden_size=scale.hidden_size,
        intermediate_size=scale.intermediate_size,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        operator="sum",
        max_position_embeddings=longest,
    )


def config_of(row: Row, scale: Scale, vocab_size: int, longest: int) -> gf.GraphformerConfig:
    """The row's settings, with as many parameters as the standard transformer has (times
    ``row.share``), within one percent.

    Raises:
        ValueError: no width of the feed-forward gives that number.
    """
    base = standard(scale, vocab_size, longest)
    target = row.share * count_parameters(base)
    if row.share == 1:
        found = gf.parameter_matched(base, **row.fields(scale))
    else:
        found = _sized({**base.to_dict(), **row.fields(scale)}, target)
    count = count_parameters(found)
    if abs(count - target) > TOLERANCE * target:
        raise ValueError(
            f"{row.what}: {count:,} parameters are not within {TOLERANCE:.0%} of {target:,.0f}"
        )
    return found


def _sized(fields: dict[str, Any], target: float) -> gf.GraphformerConfig:
    """The width of a gated feed-forward, in which the count is linear, that comes closest."""

    def of(width: int) -> gf.GraphformerConfig:
        return gf.GraphformerConfig(**{**fields, "intermediate_size": width})

    one, two = (count_parameters(of(width)) for width in (1, 2))
    return of(max(1, 1 + round((target - one) / (two - one))))


def plain_config(config: gf.GraphformerConfig) -> dict[str, Any]:
    """All fields, defaults too, without the version of transformers."""
    plain = config.to_dict()
    plain.pop("transformers_version", None)
    return plain
