"""Which nodes of a long text are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphformer.errors import whole
from graphformer.graph import AttentionGraph

LONG = 100
"""Nodes in a row whose labels can still be read."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One lane with the nodes that are drawn.

    Attributes:
        graph: their edges, nodes numbered from the first of them.
        senders, receivers: which they are.
        notes: what was left out, in words.
    """

    graph: AttentionGraph
    senders: range
    receivers: range
    notes: tuple[str, ...] = ()


def shown_of(
    graph: AttentionGraph, window: tuple[int, int] | None, min_weight: float, two_rows: bool
) -> Shown:
    """One lane cut to a window: the one that is asked for, or, where there are more than ``LONG``
    nodes, the ``LONG`` consecutive ones with the most weight between them.

    Receivers are the last of the senders; with ``two_rows`` they are nodes of their own, and each
    row has a window.

    Raises:
        ValueError: a window without nodes, or beyond them; or of two rows.
    """
    columns, rows = graph.num_senders, graph.num_receivers
    everything = Shown(graph, range(columns), range(rows))
    if window is not None:
        if two_rows:
            raise ValueError(
                f"window={window} names nodes of one row, and here senders and receivers are two: "
                "leave it out"
            )
        first, stop = _checked(window, columns)
        return _cut(everything, range(first, stop), "nodes", _own(first, stop, columns - rows))
    keep = (graph.weight.detach() > min_weight).cpu().numpy()
    senders, receivers = graph.senders.cpu().numpy()[keep], graph.receivers.cpu().numpy()[keep]
    weight = graph.weight.detach().double().cpu().numpy()[keep]
    if not two_rows:
        if columns <= LONG:
            return everything
        first = densest(senders, receivers + columns - rows, weight, columns)
        chosen = range(first, first + LONG)
        return _cut(everything, chosen, "nodes", _own(first, first + LONG, columns - rows), True)
    found = everything
    if rows > LONG:
        first = densest(receivers, receivers, weight, rows)
        found = _cut(found, range(columns), "receivers", range(first, first + LONG), True)
        inside = (receivers >= first) & (receivers < first + LONG)
        senders, weight = senders[inside], weight[inside]
    if columns > LONG:
        first = densest(senders, senders, weight, columns)
        chosen = range(first, first + LONG)
        found = _cut(found, chosen, "senders", range(found.graph.num_receivers), True)
    return found


def densest(a: np.ndarray, b: np.ndarray, weight: np.ndarray, count: int) -> int:
    """The first node of the window of ``LONG`` nodes in which edges between ``a`` and ``b`` have
    the most weight.
    """
    gain = np.zeros(count + 1)
    low, high = np.minimum(a, b), np.maximum(a, b)
    near = high - low < LONG
    # An edge is inside the windows that begin at high - LONG + 1, ..., low.
    np.add.at(gain, np.maximum(high - LONG + 1, 0)[near], weight[near])
    np.add.at(gain, low[near] + 1, -weight[near])
    return int(gain.cumsum()[: count - LONG + 1].argmax())


def part(labels: Sequence[object] | None, chosen: range, count: int) -> Sequence[object] | None:
    """The labels of the nodes that are drawn; numbers where there are none and not all are."""
    if labels is None:
        return None if len(chosen) == count else list(map(str, chosen))
    if len(labels) != count:  # said by who draws them
        return labels
    return labels[chosen.start : chosen.stop]


def _own(first: int, stop: int, shift: int) -> range:
    """The receivers in a window of senders."""
    return range(max(first - shift, 0), max(stop - shift, 0))


def _checked(window: tuple[int, int], count: int) -> tuple[int, int]:
    if not isinstance(window, (tuple, list)) or len(window) != 2:
        raise TypeError(f"window must be (first, stop), two numbers of nodes, got {window!r}")
    first, stop = (whole("window", one, 0) for one in window)
    if not first < stop <= count:
        raise ValueError(
            f"window={tuple(window)} must be (first, stop) with first < stop <= {count}, the "
            "number of nodes"
        )
    return first, stop


def _cut(
    shown: Shown, senders: range, side: str, receivers: range, by_weight: bool = False
) -> Shown:
    """These senders and receivers of what is shown, and a note that says so."""
    graph = shown.graph
    chosen = receivers if side == "receivers" else senders
    total = graph.num_receivers if side == "receivers" else graph.num_senders
    if len(chosen) == total:
        return shown
    keep = (graph.senders >= senders.start) & (graph.senders < senders.stop)
    keep &= (graph.receivers >= receivers.start) & (graph.receivers < receivers.stop)
    ends = graph.senders[keep] - senders.start, graph.receivers[keep] - receivers.start
    sizes = len(senders), len(receivers)
    part = AttentionGraph.of_sorted(ends, graph.weight[keep], sizes)
    note = f"{side} {chosen.start} to {chosen.stop - 1} of {total}"
    note += ", with the most weight between them" if by_weight else ""
    return replace(
        shown,
        graph=part,
        senders=range(shown.senders.start + senders.start, shown.senders.start + senders.stop),
        receivers=range(
            shown.receivers.start + receivers.start, shown.receivers.start + receivers.stop
        ),
        notes=(*shown.notes, note),
    )
