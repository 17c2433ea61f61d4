"""Pictures of one lane of an attention graph: arcs over the tokens, and the matrix.

Everything is drawn on matplotlib's objects, never through ``pyplot``: no window opens and no global
state changes. In a notebook the returned axes' ``figure`` shows itself; elsewhere
``axes.figure.savefig(path)`` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.errors import require
from graphformer.graph import AttentionGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue forwards (sender before receiver), orange backwards: told apart by every kind of colour
# vision.
_FORWARD, _BACKWARD, _INK = "#1f5fa8", "#d1691b", "#333333"
_STEPS = 64  # straight pieces that an arc is made of, each of its own colour
_SIGNS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}
_LONGEST = 14


def visible(label: object) -> str:
    """A token as it can be read on an axis: white space as signs, control characters as escapes,
    long ones cut.

    >>> visible(" the"), visible("\\n"), visible("")
    ('␣the', '↵', '∅')
    """
    text = "".join(_SIGNS.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in str(label))
    return (text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…") or "∅"


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
    names = _names(labels, tokens)
    senders, receivers, weight = _edges(graph, lane)
    receivers = receivers + tokens - graph.num_receivers

    chosen = weight > min_weight
    above = int(chosen.sum())
    order = np.argsort(weight, kind="stable")  # the heaviest are drawn last, on top
    order = order[chosen[order]][max(0, above - max_edges) :]
    senders, receivers, weight = senders[order], receivers[order], weight[order]
    strength = weight / weight.max() if len(weight) else weight

    if ax is None:
        ax = _axes(
            min(max(5.0, 1.5 + 0.26 * tokens), 24.0), min(max(3.0, 1.6 + 0.09 * tokens), 8.0)
        )
    ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    loop = senders == receivers
    start, stop, strong = senders[~loop], receivers[~loop], strength[~loop]
    side = np.where(start < stop, 1.0, -1.0)
    arcs, widths, colours = _arcs(start, stop, side, strong)
    ax.add_collection(
        collections.LineCollection(arcs, linewidths=widths, colors=colours, zorder=2, gid="arcs")
    )
    # Arrow heads point at the row, from above or from below.
    for upwards, marker in ((1.0, "v"), (-1.0, "^")):
        here = side == upwards
        ends = arcs.reshape(-1, _STEPS, 2, 2)[here, -1, 1]
        size, colour = 10 + 26 * strong[here], _tint(upwards, strong[here])
        ax.scatter(
            ends[:, 0], ends[:, 1], marker=marker, s=size, color=colour, lw=0, zorder=3, gid="heads"
        )
    ax.scatter(
        senders[loop],
        np.zeros(int(loop.sum())),
        s=42,
        facecolors="white",
        edgecolors=_tint(1.0, strength[loop]),
        linewidths=0.6 + 2.0 * strength[loop],
        zorder=4,
        gid="loops",
    )
    bare = np.setdiff1d(np.arange(tokens), senders[loop])
    ax.scatter(bare, np.zeros(len(bare)), s=7, color="#999999", lw=0, zorder=1, gid="tokens")

    top, bottom = (max(_height(stop - start)[side == s], default=0.0) for s in (1.0, -1.0))
    room = 0.03 * (top + bottom) + 0.3
    ax.set_ylim(-bottom - room, top + room)
    ax.set_xlim(-0.8, max(tokens, 1) - 0.2)
    ax.set_yticks([])
    ax.spines[["left", "right", "top", "bottom"]].set_visible(False)
    _name_ticks(ax, "x", names, inches=ax.get_window_extent().width / _figure(ax).dpi)
    if not len(weight):
        _say_empty(
            ax, "no edges" if not above and not chosen.size else f"no edges above {min_weight:g}"
        )
    elif above > len(weight):
        note = f"the {len(weight)} heaviest of {above} edges"
        ax.text(
            1.0,
            1.0,
            note,
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color="#777777",
        )
    if title is not None:
        ax.set_title(title, fontsize=10, color=_INK, loc="left", parse_math=False)
    return ax


def plot_adjacency(
    graph: AttentionGraph,
    *,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """One lane as its matrix: receivers in rows, senders in columns, white where there is no edge.

    Args:
        graph: any graph.
        lane: which lane.
        labels: one a sender; the receivers are the last ones. Numbers when left out.
        ax: axes to draw on; a figure is made when left out.
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
    if labels is not None and rows > columns:
        raise ValueError(
            f"labels name the senders, and with {rows} receivers and only {columns} senders they "
            "cannot name both"
        )
    names = _names(labels, columns)
    senders, receivers, weight = _edges(graph, lane)
    matrix = np.full((rows, columns), np.nan)
    matrix[receivers, senders] = weight

    if ax is None:
        side = min(max(3.5, 1.5 + 0.16 * columns), 14.0)
        ax = _axes(side + 1.0, min(max(2.5, 1.5 + 0.16 * rows), 14.0))
    # From a visible tint on, so that an edge of little weight differs from no edge.
    scale = colors.LinearSegmentedColormap.from_list(
        "weight", ["#dbe7f5", "#6fa1d6", _FORWARD, "#0b2447"]
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
    bar = _figure(ax).colorbar(image, ax=ax, shrink=shrink, aspect=28 * shrink, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2, colors=_INK)
    ax.spines[["left", "right", "top", "bottom"]].set_color("#cccccc")
    extent = ax.get_window_extent()
    inches = min(extent.width / max(columns, 1), extent.height / max(rows, 1)) / _figure(ax).dpi
    _name_ticks(ax, "x", names, inches=inches * columns)
    _name_ticks(ax, "y", None if names is None else names[columns - rows :], inches=inches * rows)
    ax.set_xlabel("sender", fontsize=9, color=_INK)
    ax.set_ylabel("receiver", fontsize=9, color=_INK)
    if not len(weight):
        _say_empty(ax, "no edges")
    if title is not None:
        ax.set_title(title, fontsize=10, color=_INK, loc="left", parse_math=False)
    return ax


def plot_head(
    graph: AttentionGraph,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    min_weight: float = 0.0,
    max_edges: int = 1000,
    title: str | None = None,
) -> Figure:
    """One lane as arcs and as a matrix, side by side; written to ``path`` (PNG, or what its suffix
    says) where given.

    Arguments as in :func:`plot_graph`; ``title`` is the lane, and its sequence and head, when left
    out.
    """
    figures = require("matplotlib.figure", extra="viz", why="plotting a graph")
    tokens = graph.num_senders
    matrix = min(max(3.6, 1.6 + 0.15 * tokens), 10.0)
    arcs = min(max(4.5, 1.0 + 0.24 * tokens), 20.0)
    figure = figures.Figure(
        figsize=(arcs + matrix + 0.8, matrix), dpi=150, layout="constrained", facecolor="white"
    )
    left, right = figure.subplots(1, 2, width_ratios=[arcs, matrix + 0.8])
    plot_graph(graph, lane=lane, labels=labels, ax=left, min_weight=min_weight, max_edges=max_edges)
    plot_adjacency(graph, lane=lane, labels=labels, ax=right)
    edges = graph.lane(lane).num_edges
    name = _lane_name(graph, lane) if title is None else title
    figure.suptitle(
        f"{name}  ({edges} edge{'' if edges == 1 else 's'})",
        fontsize=11,
        color=_INK,
        parse_math=False,
    )
    if path is not None:
        figure.savefig(path)
    return figure


# ---------------------------------------------------------------------- pieces


def _edges(graph: AttentionGraph, lane: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders, receivers and weights of one lane, nodes numbered from 0."""
    one = graph.lane(lane)
    return (
        one.senders.cpu().numpy(),
        one.receivers.cpu().numpy(),
        one.weight.detach().double().cpu().numpy(),
    )


def _names(labels: Sequence[object] | None, tokens: int) -> list[str] | None:
    if labels is None:
        return None
    if isinstance(labels, str):
        labels = list(labels)
    if len(labels) != tokens:
        raise ValueError(
            f"labels must hold one label for each of the {tokens} senders, got {len(labels)}"
        )
    return [visible(label) for label in labels]


def _lane_name(graph: AttentionGraph, lane: int) -> str:
    lane %= graph.num_lanes
    if len(graph.batch_shape) != 2:
        return f"lane {lane}"
    sequence, head = divmod(lane, graph.batch_shape[1])
    return f"sequence {sequence}, head {head}"


def _axes(width: float, height: float) -> Any:
    figures = require("matplotlib.figure", extra="viz", why="plotting a graph")
    return figures.Figure(
        figsize=(width, height), dpi=150, layout="constrained", facecolor="white"
    ).subplots()


def _figure(ax: Axes) -> Any:
    return ax.get_figure(root=True)


def _height(distance: np.ndarray) -> np.ndarray:
    """Far arcs rise less than in proportion, so that near ones stay visible under them."""
    return np.abs(distance) ** 0.8


def _tint(side: float | np.ndarray, strength: np.ndarray) -> Any:
    """RGB ``[..., 3]``: pale at strength 0, the side's colour at strength 1. Opaque, so that pieces
    of an arc join.
    """
    colors = require("matplotlib.colors", extra="viz", why="plotting a graph")
    forward, backward = np.array(colors.to_rgb(_FORWARD)), np.array(colors.to_rgb(_BACKWARD))
    colour = np.where(np.asarray(side)[..., None] > 0, forward, backward)
    return 1 - (1 - colour) * (0.25 + 0.75 * np.sqrt(strength.clip(0))[..., None])


def _arcs(
    start: np.ndarray, stop: np.ndarray, side: np.ndarray, strength: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half ellipses in pieces: lines ``[A * STEPS, 2, 2]``, widths ``[A * STEPS]``, colours
    ``[A * STEPS, 3]``.
    """
    # Arcs leave a token on one side and arrive on the other, so that heads and tails do not meet.
    towards = np.sign(stop - start)
    start, stop = start + 0.16 * towards, stop - 0.16 * towards
    angle = np.linspace(math.pi, 0, _STEPS + 1)
    x = (start + stop)[:, None] / 2 + np.cos(angle) * (stop - start)[:, None] / 2
    y = side[:, None] * (np.sin(angle) * _height(stop - start)[:, None] + 0.12)
    points = np.stack((x, y), axis=-1)
    lines = np.stack((points[:, :-1], points[:, 1:]), axis=2).reshape(-1, 2, 2)
    along = np.linspace(0.3, 1.0, _STEPS)
    widths = (0.4 + 2.0 * strength)[:, None] * along
    colours = _tint(np.repeat(side[:, None], _STEPS, axis=1), strength[:, None] * along)
    return lines, widths.reshape(-1), colours.reshape(-1, 3)


def _name_ticks(ax: Axes, axis: str, names: list[str] | None, *, inches: float) -> None:
    """Labels on an axis, sized to ``inches``; every k-th where they would not fit. Numbers where
    there are no names.
    """
    target = ax.xaxis if axis == "x" else ax.yaxis
    target.set_tick_params(length=0 if axis == "x" else 2, colors=_INK, labelsize=7)
    if names is None:
        from matplotlib.ticker import MaxNLocator

        target.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        return
    points = 72 * inches / max(len(names), 1)
    size = min(max(0.85 * points, 5.0), 9.0)
    every = max(1, math.ceil(1.1 * size / max(points, 1e-9)))
    room = points * every
    places = range(0, len(names), every)
    target.set_ticks(list(places), labels=[names[i] for i in places])
    for label in target.get_ticklabels():
        upright = axis == "y" or len(label.get_text()) * size * 0.62 <= room
        label.set(rotation=0 if upright else 90, fontsize=size, fontfamily="monospace", color=_INK)
        label.set_parse_math(False)  # a token may be a dollar sign


def _say_empty(ax: Axes, text: str) -> None:
    ax.text(
        0.5,
        0.55,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=10,
        color="#999999",
    )
