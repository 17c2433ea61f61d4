"""What edges must hold to be a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphformer.errors import whole

if TYPE_CHECKING:
    from graphformer.graph.attention_graph import AttentionGraph


def sizes(
    num_nodes: int | None, num_senders: int | None, num_receivers: int | None
) -> tuple[int, int]:
    """The numbers of senders and receivers of a lane, from what was given of the three."""
    if num_nodes is not None:
        if num_senders not in (None, num_nodes) or num_receivers not in (None, num_nodes):
            raise ValueError(
                f"num_nodes={num_nodes} contradicts num_senders={num_senders}, "
                f"num_receivers={num_receivers}; give one or the other"
            )
        num_senders = num_receivers = num_nodes
    if num_senders is None or num_receivers is None:
        raise ValueError(
            "the number of nodes per lane is missing: give num_nodes, or both num_senders and "
            "num_receivers"
        )
    return whole("num_senders", num_senders, 0), whole("num_receivers", num_receivers, 0)


def whole_numbers(senders: Tensor, receivers: Tensor) -> tuple[Tensor, Tensor]:
    """Both as int64."""
    for name, value in (("senders", senders), ("receivers", receivers)):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must hold integers, got {value.dtype}")
    return senders.long(), receivers.long()


def refuse_strangers(graph: AttentionGraph) -> None:
    """Edges with an end that is no node, or with its ends in two lanes."""
    senders, receivers, num_lanes = graph.senders, graph.receivers, graph.num_lanes
    num_senders, num_receivers = graph.num_senders, graph.num_receivers
    for name, value, size in (
        ("senders", senders, num_senders),
        ("receivers", receivers, num_receivers),
    ):
        if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < num_lanes * size:
            raise ValueError(
                f"{name} must lie in 0..{num_lanes * size - 1} ({num_lanes} lanes of {size} "
                f"nodes), got values from {int(value.min())} to {int(value.max())}"
            )
    if senders.numel() and num_senders and num_receivers:
        crossing = torch.div(senders, num_senders, rounding_mode="floor") != torch.div(
            receivers, num_receivers, rounding_mode="floor"
        )
        if bool(crossing.any()):
            e = int(crossing.nonzero()[0])
            raise ValueError(
                f"edge {e} joins two lanes (sender {int(senders[e])}, receiver "
                f"{int(receivers[e])}); lanes are independent graphs"
            )
