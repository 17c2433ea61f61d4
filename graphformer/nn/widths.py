"""How wide heads are, and what has to fit."""

from __future__ import annotations

from graphformer.attention.head import Head
from graphformer.errors import whole


def width_of_head(
    hidden_size: int, num_heads: int, num_kv_heads: int | None, given: int | None = None
) -> tuple[int, int]:
    """The width of a head and the number of key heads, checked."""
    for name, value in (("hidden_size", hidden_size), ("num_heads", num_heads)):
        whole(name, value)
    if given is not None:
        whole("head_dim", given)
    elif hidden_size % num_heads:
        raise ValueError(
            f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}: every head "
            "takes an equal slice; or give the width of a head, head_dim"
        )
    kv_heads = num_heads if num_kv_heads is None else whole("num_kv_heads", num_kv_heads, 0)
    if kv_heads < 1 or num_heads % kv_heads:
        raise ValueError(
            f"num_heads {num_heads} is not a multiple of num_kv_heads {kv_heads}: every key head "
            "serves an equal group"
        )
    return hidden_size // num_heads if given is None else given, kv_heads


def check_widths(head: Head, hidden_size: int, num_heads: int, head_dim: int) -> int:
    """How wide the heads' outputs are together; ValueError where slots need another width."""
    width = num_heads * head_dim
    if not head.features.projects and width != hidden_size:
        raise ValueError(
            f"features={head.features.name!r} sends slices of the hidden states, and num_heads "
            f"{num_heads} times head_dim {head_dim} is {width}, not hidden_size {hidden_size}: "
            "take features='projection' (value_projection=True), or leave head_dim out"
        )
    outputs = head.update.num_outputs(num_heads)
    if not head.update.maps and outputs * head_dim != hidden_size:
        what = head.update.name or type(head.update).__name__
        raise ValueError(
            f"update={what!r} has no output map, and {outputs} outputs of heads with head_dim "
            f"{head_dim} are {outputs * head_dim} channels, not hidden_size {hidden_size}: take an "
            "output map (output_projection=True, update='output_map', or maps=True of an update "
            "that has it), or another head_dim"
        )
    return outputs * head_dim
