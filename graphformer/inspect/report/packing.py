"""Edges and coordinates as little-endian buffers in base64."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.graph import AttentionGraph

if TYPE_CHECKING:
    from graphformer.inspect.value import ModelGraphs

TOP = 65535  # the greatest weight of a head, in 16 bits


def buffer(values: np.ndarray, kind: str) -> dict[str, str]:
    """An array for the page: its type and its bytes. ``kind`` is ``u1``, ``u2``, ``u4`` or ``f4``;
    ``u`` is the narrowest that holds the numbers.
    """
    if kind == "u":
        most = int(values.max()) if values.size else 0
        kind = "u1" if most < 256 else "u2" if most < 65536 else "u4"
    raw = np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()
    return {"t": kind, "b": base64.b64encode(raw).decode("ascii")}


def packed(graph: AttentionGraph, max_edges: int | None, name: str) -> dict[str, Any]:
    """The lanes of one sequence: how many edges each row has, their senders, and their weights
    between the least and the greatest of the lane.
    """
    lanes, rows = graph.num_lanes, graph.num_receivers
    senders = graph.senders.cpu().numpy() % max(graph.num_senders, 1)
    receivers = graph.receivers.cpu().numpy()
    weight = graph.weight.detach().double().cpu().numpy()
    if not np.isfinite(weight).all():
        raise ValueError(f"{name} has a weight that is not finite; the page cannot show it")
    lane = receivers // max(rows, 1)
    total = np.bincount(lane, minlength=lanes)
    if max_edges is not None and total.max(initial=0) > max_edges:
        order = np.lexsort((-weight, lane))  # stable: of equal weights the first stay
        rank = np.arange(len(order)) - (total.cumsum() - total)[lane[order]]
        keep = np.sort(order[rank < max_edges])
        senders, receivers, weight, lane = (x[keep] for x in (senders, receivers, weight, lane))
    low, high = np.full(lanes, np.inf), np.full(lanes, -np.inf)
    np.minimum.at(low, lane, weight)
    np.maximum.at(high, lane, weight)
    empty = low > high
    low[empty] = high[empty] = 0.0
    span = np.where(high > low, high - low, 1.0)[lane]
    return {
        "rows": rows,
        "counts": buffer(np.bincount(receivers, minlength=lanes * rows), "u"),
        "senders": buffer(senders, "u"),
        "weights": buffer(np.rint((weight - low[lane]) / span * TOP), "u2"),
        "low": low.tolist(),
        "high": high.tolist(),
        "total": total.tolist(),
    }


def kept_edges(graphs: ModelGraphs, max_edges: int | None) -> int:
    """How many edges a page of them holds."""
    if max_edges is None:
        return sum(layer.graph.num_edges for layer in graphs.layers)
    return sum(
        int(np.minimum(np.bincount(layer.graph.sender_lane.cpu().numpy()), max_edges).sum())
        for layer in graphs.layers
    )
