"""Cross-attention as a picture: senders above, receivers below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.inspect.drawing import (
    INK,
    figure_of,
    heaviest,
    name_ticks,
    names_of,
    new_axes,
    say_cut,
    say_empty,
    say_title,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_rows(
    graph: AttentionGraph,
    *,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    receiver_labels: Sequence[object] | None = None,
    ax: Axes | None = None,
    min_weight: float = 0.0,
    max_edges: int = 1000,
    title: str | None = None,
) -> Axes:
    """One lane whose receivers are other nodes than its senders, as two rows with a line for each
    edge, from the sender above to the receiver below; the heavier, the darker and wider.

    Arguments as in :func:`graphformer.inspect.plot_graph`; ``receiver_labels`` name the receivers.
    """
    collections = require("matplotlib.collections", extra="viz", why="plotting a graph")
    columns, rows = graph.num_senders, graph.num_receivers
    above = names_of(labels, columns)
    below = names_of(receiver_labels, rows, "receiver", "receiver_labels")
    senders, receivers, strength, there = heaviest(graph, lane, min_weight, max_edges)
    if ax is None:
        ax = new_axes(min(max(5.0, 1.5 + 0.26 * max(columns, rows)), 24.0), 4.0)
    ax.set_xlim(-0.5, max(rows, 1) - 0.5)
    ax.set_ylim(-0.04, 1.04)
    ax.set_yticks([])
    # Both rows are as wide as the axes.
    start = (senders + 0.5) * max(rows, 1) / max(columns, 1) - 0.5
    along = np.linspace(0, 1, 33)
    ease = along**2 * (3 - 2 * along)
    x = start[:, None] + ease * (receivers - start)[:, None]
    lines = np.stack(np.broadcast_arrays(x, 1 - along), axis=-1)
    colour = tint(1.0, strength)
    ax.add_collection(
        collections.LineCollection(
            lines, linewidths=0.4 + 2.0 * strength, colors=colour, zorder=2, gid="lines"
        )
    )
    ax.scatter(
        receivers,
        np.zeros(len(receivers)),
        marker="v",
        s=10 + 26 * strength,
        color=colour,
        lw=0,
        zorder=3,
        gid="heads",
    )
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    upper = ax.twiny()
    upper.set_xlim(-0.5, max(columns, 1) - 0.5)
    upper.spines[["left", "right", "top", "bottom"]].set_visible(False)
    inches = ax.get_window_extent().width / figure_of(ax).dpi
    name_ticks(ax, "x", below, inches=inches)
    name_ticks(upper, "x", above, inches=inches)
    ax.set_xlabel("receivers", fontsize=9, color=INK)
    upper.set_xlabel("senders", fontsize=9, color=INK)
    if not there:
        say_empty(ax, graph, lane, min_weight)
    say_cut(ax, len(strength), there)
    say_title(ax, title)
    return ax
