"""Sizes that a slot value takes from its layer, and what still waits for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from graphformer.attention.slot import Slot, children, own_state

SIZES = (
    *("num_heads", "num_kv_heads", "dim", "hidden_size", "kv_size", "query_size"),
    "intermediate_size",
)
"""What a layer fills in: see :meth:`Slot.for_layer`."""


def require_sizes(value: Any) -> None:
    """ValueError for a value that still waits for a layer's sizes, and so has no parameters to
    compute with. One that has passed is not looked at again: decoding asks at every token.
    """
    if not isinstance(value, Slot) or "_sized" in value.__dict__:
        return
    if isinstance(value, nn.Module) and not own_state(value):
        lacking = [name for name, one in value.arguments().items() if name in SIZES and one is None]
        if lacking:
            raise ValueError(
                f"{value.slot}={value.name or type(value).__name__!r} waits for "
                f"{', '.join(lacking)}: give them, {type(value).__name__}({lacking[0]}=...), or "
                "give the value to a layer, which fills them in"
            )
    for one in children(value):
        require_sizes(one)
    value.__dict__["_sized"] = True
