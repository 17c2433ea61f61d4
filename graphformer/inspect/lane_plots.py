"""Pictures of one lane of an attention graph: arcs over the tokens, and the matrix.

Both side by side are in ``plots.py``.

Everything is drawn on matplotlib's objects, never through ``pyplot``: no window opens and no global
state changes. In a notebook the returned axes' ``figure`` shows itself; elsewhere
``axes.figure.savefig(path)`` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.inspect.drawing import (
    FORWARD,
    INK,
    STEPS,
    arcs_of,
    edges_of,
    figure_of,
    heaviest,
    name_ticks,
    names_of,
    new_axes,
    rise,
    say_cut,
    say_empty,
    say_title,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_graph(
    graph: AttentionGraph,
    *,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    ax: Axes | None = None,
    min_weight: float = 0.0,
    max_edges: int = 1000,
    title: str | None = None,
) -> Axes:
    """One lane as an arc diagram: tokens in a row, an arc from each sender to each receiver.

    An arc grows darker and wider from sender to receiver and ends in an arrow head; its strength is
    its weight, relative to the largest one drawn. Arcs to a later token run above the row, in blue;
    arcs to an earlier one below it, in orange; a self-loop is a small ring on its token. Where
    there are fewer receivers than senders (decoding), the receivers are the last tokens.

    Args:
        graph: any graph whose receivers are tokens of its senders.
        lane: which lane.
        labels: one a sender, usually the tokens as text; white space is made visible. Numbers when
            left out.
        ax: axes to draw on; a figure of fitting size is made when left out.
        min_weight: edges of greater weight are drawn, others are not.
        max_edges: at most so many are drawn, the heaviest; the picture says so when it leaves any
            out.
        title: written above.

    Returns:
        The axes. ``axes.figure`` is the figure.

    Raises:
        IndexError: there is no such lane.
        ValueError: ``labels`` has the wrong length, or there are more receivers than senders.
        MissingExtra: matplotlib is not installed.
    """
    collections = require("matplotlib.collections", extra="viz", why="plotting a graph")
    if graph.num_receivers > graph.num_senders:
        raise ValueError(
            f"an arc diagram has one row of tokens, but this graph has {graph.num_receivers} "
            f"receivers and only {graph.num_senders} senders; use plot_adjacency"
        )
    tokens = graph.num_senders
    names = names_of(labels, tokens)
    senders, receivers, strength, above = heaviest(graph, lane, min_weight, max_edges)
    receivers = receivers + tokens - graph.num_receivers

    if ax is None:
        ax = new_axes(
            min(max(5.0, 1.5 + 0.26 * tokens), 24.0), min(max(3.0, 1.6 + 0.09 * tokens), 8.0)
        )
    ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    loop = senders == receivers
    start, stop, strong = senders[~loop], receivers[~loop], strength[~loop]
    side = np.where(start < stop, 1.0, -1.0)
    arcs, widths, colours = arcs_of(start, stop, side, strong)
    ax.add_collection(
        collections.LineCollection(arcs, linewidths=widths, colors=colours, zorder=2, gid="arcs")
    )
    # Arrow heads point at the row, from above or from below.
    for upwards, marker in ((1.0, "v"), (-1.0, "^")):
        here = side == upwards
        ends = arcs.reshape(-1, STEPS, 2, 2)[here, -1, 1]
        size, colour = 10 + 26 * strong[here], tint(upwards, strong[here])
        ax.scatter(
            ends[:, 0], ends[:, 1], marker=marker, s=size, color=colour, lw=0, zorder=3, gid="heads"
        )
    ax.scatter(
        senders[loop],
        np.zeros(int(loop.sum())),
        s=42,
        facecolors="white",
        edgecolors=tint(1.0, strength[loop]),
        linewidths=0.6 + 2.0 * strength[loop],
        zorder=4,
        gid="loops",
    )
    bare = np.setdiff1d(np.arange(tokens), senders[loop])
    ax.scatter(bare, np.zeros(len(bare)), s=7, color="#999999", lw=0, zorder=1, gid="tokens")

    top, bottom = (max(rise(stop - start)[side == s], default=0.0) for s in (1.0, -1.0))
    room = 0.03 * (top + bottom) + 0.3
    ax.set_ylim(-bottom - room, top + room)
    ax.set_xlim(-0.8, max(tokens, 1) - 0.2)
    ax.set_yticks([])
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    name_ticks(ax, "x", names, inches=ax.get_window_extent().width / figure_of(ax).dpi)
    if not above:
        say_empty(ax, graph, lane, min_weight)
    say_cut(ax, len(strength), above)
    say_title(ax, title)
    return ax


def plot_adjacency(
    graph: AttentionGraph,
    *,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    receiver_labels: Sequence[object] | None = None,
    ax: Axes | None = None,
    min_weight: float | None = None,
    title: str | None = None,
) -> Axes:
    """One lane as its matrix: receivers in rows, senders in columns, white where there is no edge.

    Args:
        graph: any graph.
        lane: which lane.
        labels: one a sender; the receivers are the last ones. Numbers when left out.
        receiver_labels: one a receiver, where receivers are other nodes than senders.
        ax: axes to draw on; a figure is made when left out.
        min_weight: edges of greater weight are drawn, others are not; all when left out.
        title: written above.

    Returns:
        The axes. ``axes.figure`` is the figure.

    Raises:
        IndexError: there is no such lane.
        ValueError: ``labels`` has the wrong length, or is given where there are more receivers than
            senders.
        MissingExtra: matplotlib is not installed.
    """
    colors = require("matplotlib.colors", extra="viz", why="plotting a graph")
    rows, columns = graph.num_receivers, graph.num_senders
    if labels is not None and receiver_labels is None and rows > columns:
        raise ValueError(
            f"labels name the senders, and with {rows} receivers and only {columns} senders they "
            "cannot name both"
        )
    names = names_of(labels, columns)
    own = names_of(receiver_labels, rows, "receiver", "receiver_labels")
    if own is None and names is not None:
        own = names[columns - rows :]
    senders, receivers, weight = edges_of(graph, lane, min_weight)
    matrix = np.full((rows, columns), np.nan)
    matrix[receivers, senders] = weight

    if ax is None:
        side = min(max(3.5, 1.5 + 0.16 * columns), 14.0)
        ax = new_axes(side + 1.0, min(max(2.5, 1.5 + 0.16 * rows), 14.0))
    # From a visible tint on, so that an edge of little weight differs from no edge.
    scale = colors.LinearSegmentedColormap.from_list(
        "weight", ["#dbe7f5", "#6fa1d6", FORWARD, "#0b2447"]
    )
    low, high = (min(0.0, float(weight.min())), float(weight.max())) if len(weight) else (0.0, 1.0)
    image = ax.imshow(
        matrix,
        cmap=scale,
        vmin=low,
        vmax=high if high > low else low + 1.0,
        aspect="equal",
        interpolation="nearest",
        extent=(-0.5, max(columns, 1) - 0.5, max(rows, 1) - 0.5, -0.5),
    )
    shrink = 0.7 * min(max(rows / max(columns, 1), 0.3), 1.0)
    bar = figure_of(ax).colorbar(image, ax=ax, shrink=shrink, aspect=28 * shrink, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, colors=INK)
    ax.spines[["left", "right", "top", "bottom"]].set_color("#cccccc")
    extent = ax.get_window_extent()
    inches = min(extent.width / max(columns, 1), extent.height / max(rows, 1)) / figure_of(ax).dpi
    name_ticks(ax, "x", names, inches=inches * columns)
    name_ticks(ax, "y", own, inches=inches * rows)
    ax.set_xlabel("sender", fontsize=9, color=INK)
    ax.set_ylabel("receiver", fontsize=9, color=INK)
    if not len(weight):
        say_empty(ax, graph, lane, min_weight)
    say_title(ax, title)
    return ax
