"""Our model with one setting changed: further rows of the studies."""

from __future__ import annotations

from functools import partial
from typing import Any

import graphformer as gf
from graphformer.attention.candidates import All, Given, PerHead


def own_and_norm(
    settings: dict[str, Any], apart: bool = False
) -> dict[str, partial[gf.GraphTransformer]]:
    """GIN as GINAttentionConv comes: a node's own features, which a residual block adds as well,
    and a norm in the MLPs.

    ``apart``: also with one of them alone.
    """
    kinds = {"gin-own-norm": (1.0, True)} | (
        {"gin-own": (1.0, False), "gin-norm": (0.0, True)} if apart else {}
    )
    return {
        name: partial(
            gf.GraphTransformer,
            operator="gin",
            operator_options={"gin": {"self_weight": own, "mlp_norm": norm}},
            **settings,
        )
        for name, (own, norm) in kinds.items()
    }


def variants(settings: dict[str, Any]) -> dict[str, partial[gf.GraphTransformer]]:
    """Plain attention with one thing more; PNA, whose maximum and minimum tell what a mean hides,
    and whose sums are scaled by the degree.
    """
    local = settings["num_heads"] // 2
    counts = (local, settings["num_heads"] - local)
    slots: dict[str, Any] = {"candidates": PerHead((Given(), All()), counts=counts)}
    rest = dict(settings)
    if "normalize" in rest:
        slots["normalize"] = rest.pop("normalize")
    aggregators = {"pna": {"aggregators": ("mean", "max", "min")}}
    make = partial(gf.GraphTransformer, operator="sum")
    return {
        "sum-local-global": partial(
            make, candidates="edges+all", head=gf.Head(**slots).spec(), **rest
        ),
        "sum-edge-update": partial(make, edge_update=True, **settings),
        "sum-batch-norm": partial(make, norm="batch", **settings),
        "pna": partial(
            gf.GraphTransformer, operator="pna", operator_options=aggregators, **settings
        ),
    }
