"""Which adapters can be merged into the weights of their model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphformer.adapters.forms import PAPER

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig


def not_merged(config: SparseGINConfig) -> str | None:
    """Why it cannot be merged into the weights; None where it can."""
    if config.form == PAPER:
        return (
            "a Sparse-GIN adapter cannot be merged into the weights of its model: what it adds "
            "depends on the attention graph of the input. Keep it beside the model, or take it "
            "off with unload()"
        )
    reasons = []
    if config.activation is not None:
        reasons.append(f"activation={config.activation!r} is not linear")
    if config.relations:
        names = ", ".join(str(one) for one in config.checked_relations())
        reasons.append(f"relations={names} carry what other tokens have")
    if config.messages is not None:
        reasons.append("messages depend on the attention graph of the input")
    if not reasons:
        return None
    return (
        "this adapter cannot be merged into the weights of its model: "
        + "; ".join(reasons)
        + ". Keep it beside the model, take it off with unload(), or train one with "
        "activation=None, relations=[] and messages=None"
    )
