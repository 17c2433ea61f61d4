"""Recipes: each extra with plain attention and with GIN. Only what GIN gains beyond plain attention
(the interaction) counts for GIN.

An extra that waits for a slot value of its own is one more entry of :data:`EXTRAS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import graphformer as gf
from benchmarks.paper.settings import Row, Scale

OPERATORS = ("sum", "gin")


@dataclass(frozen=True)
class Extra:
    """What stands beside or in the place of a part of a head.

    Attributes:
        what: for tables.
        fields: of the config.
        slots: of the head, from the scale (for widths).
        update: the name of an update; the map over all heads follows where the operator's own
            update has one, which is plain attention.
        operators: in the place of ``sum`` and of ``gin``, in their plain form.
        features: the name of features around the operator's own, ``projection`` of plain attention
            and ``slice`` of GIN.
    """

    what: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    slots: Callable[[Scale], dict[str, Any]] = lambda scale: {}
    update: str | None = None
    operators: Mapping[str, Any] = field(default_factory=dict)
    features: str | None = None

    def config(self, operator: str, scale: Scale) -> dict[str, Any]:
        """Fields of the config, for one operator."""
        slots, fields = dict(self.slots(scale)), dict(self.fields)
        if self.update is not None:
            slots["update"] = {"name": self.update, "maps": operator == "sum"}
        own = "projection" if operator == "sum" else "slice"
        if self.features is not None:
            slots["features"] = {"name": self.features, "inner": own}
        if operator not in self.operators:
            head = {"head": gf.Head(**slots)} if slots else {}
            return {"operator": operator, **fields, **head}
        # a head with an operator says all that hangs on it; the layer around it is plain
        plain = operator == "sum"
        slots |= {
            "operator": self.operators[operator],
            "features": slots.get("features", own),
            **({} if "update" in slots else {"update": "output_map" if plain else "concat"}),
        }
        return {"operator": "gin", "sharpening": not plain, "head": gf.Head(**slots), **fields}


GIN = {"name": "gin", "mlp_ratio": 0.5}
NO_NORM = {"operator_options": {"gin": {"mlp_norm": False}}}
EXTRAS: dict[str, Extra] = {
    "chain": Extra("edges from the 3 tokens before", {"relations": [gf.Chain(3)]}),
    "repeats": Extra("edges from what followed the same token", {"relations": [gf.Repeats(1)]}),
    "chain-repeats": Extra(
        "edges from the 3 tokens before and from what followed the same one and two",
        {"relations": [gf.Chain(3), gf.Repeats(1), gf.Repeats(2, "mean")]},
    ),
    "value-residual": Extra(
        "what is sent leans on what the first layer sends", features="value_residual"
    ),
    "initial-residual": Extra(
        "layers lean on what the first one was given", {"initial_residual": 0.0}
    ),
    "query-network": Extra(
        "queries by a network of 3/2 the width, 2 d^2 more than the usual map",
        slots=lambda scale: {
            "score": {"name": "query_network", "width": 3 * scale.hidden_size // 2}
        },
    ),
    "qk-norm": Extra("queries and keys of one length", slots=lambda _: {"score": "qk_norm"}),
    "differential": Extra("differential attention", {"score": "differential"}),
    "paired": Extra("heads in pairs, less the partner", update="paired_difference"),
    "gate": Extra("a gate for each channel", update="channel_gate"),
    "gated-heads": Extra("a gate for each head", update="gated_heads"),
    "experts": Extra("two groups of heads as experts", update="experts"),
    "xsa": Extra(
        "without what lies along the own features (XSA); GIN so without epsilon",
        operators={
            "sum": "projected_self",
            "gin": {"name": "projected_self", "inner": {**GIN, "train_eps": False}},
        },
    ),
    "merged-heads": Extra(
        "one merged graph for all heads",
        operators={
            operator: {"name": "merged_heads", "inner": inner}
            for operator, inner in (("sum", "sum"), ("gin", GIN))
        },
    ),
    "two-hops": Extra(
        "sums over one and two steps",
        operators={
            operator: {"name": "multi_hop", "hops": 2, "inner": inner}
            for operator, inner in (("sum", None), ("gin", GIN))
        },
    ),
    "magnitude": Extra(
        "sigmoid weights, whose sums tell how many there are; GIN so without its MLPs' norm",
        {"normalize": "sigmoid", **NO_NORM},
    ),
}


RECIPE = "chain"
"""The extra with which the screening saw the lowest loss, beside GIN."""
FINALISTS = ("chain", "chain-repeats", "value-residual")
"""Those that lowered GIN's loss by more than 0.02 nats in the screening."""
LONGER = Row("standard transformer, trained for GIN's time", {"operator": "sum"}, longer=True)
"""At least as much time as GIN with the recipe takes."""


CONTROLS = {
    "slices": Row("GIN without MLPs: sums of slices", lambda scale: _slices()),
    f"slices+{RECIPE}": Row(
        EXTRAS[RECIPE].what, lambda scale: {**_slices(), **EXTRAS[RECIPE].fields}
    ),
    f"gin-no-norm+{RECIPE}": Row(
        EXTRAS[RECIPE].what, {"operator": "gin", **NO_NORM, **EXTRAS[RECIPE].fields}
    ),
}
"""Which of GIN's differences from plain attention does it: its MLPs, their norm, or that it
projects nothing.
"""
CUTS = {
    f"{operator}-above-{threshold:g}": Row(
        f"{what}, edges above {threshold:g}", {"operator": operator, "threshold": threshold}
    )
    for operator, what in (("sum", "standard transformer"), ("gin", "GIN"))
    for threshold in (0.02, 0.1)
}
"""Weak edges left out, in training too."""


def recipe_row(extra: str, operator: str) -> Row:
    return Row(EXTRAS[extra].what, _with(EXTRAS[extra], operator), rate_of=operator)


def recipe_rows() -> dict[str, Row]:
    """Both operators alone, then both with each extra; in a screening the extras take the rate of
    their operator alone.
    """
    rows = {
        operator: Row({"sum": "standard transformer", "gin": "GIN"}[operator], _alone(operator))
        for operator in OPERATORS
    }
    for name in EXTRAS:
        for operator in OPERATORS:
            rows[f"{operator}+{name}"] = recipe_row(name, operator)
    return rows


def _slices() -> dict[str, Any]:
    head = gf.Head(operator="sum", features="slice", update="concat")
    return {"operator": "gin", "sharpening": True, "head": head}


def _alone(operator: str) -> Callable[[Scale], dict[str, Any]]:
    return lambda scale: {"operator": operator}


def _with(extra: Extra, operator: str) -> Callable[[Scale], dict[str, Any]]:
    return lambda scale: extra.config(operator, scale)
