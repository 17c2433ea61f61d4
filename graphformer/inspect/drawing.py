"""What the pictures of graphs are made of: arcs, lines, labels, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.inspect.glyphs import readable, shortened, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blue forwards (sender before receiver), orange backwards: told apart by every kind of colour
# vision.
FORWARD, BACKWARD, INK = "#1f5fa8", "#d1691b", "#333333"
STEPS = 64  # straight pieces that an arc is made of, each of its own colour


def edges_of(
    graph: AttentionGraph, lane: int, min_weight: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders, receivers and weights of one lane's edges of greater weight, nodes numbered from
    0.
    """
    one = graph.lane(lane)
    weight = one.weight.detach().double().cpu().numpy()
    keep = slice(None) if min_weight is None else weight > min_weight
    return one.senders.cpu().numpy()[keep], one.receivers.cpu().numpy()[keep], weight[keep]


def names_of(
    labels: Sequence[object] | None, count: int, side: str = "sender", option: str = "labels"
) -> list[str] | None:
    """One label a node, as it is written."""
    if labels is None:
        return None
    if isinstance(labels, str):
        labels = list(labels)
    if len(labels) != count:
        raise ValueError(
            f"{option} must hold one label for each of the {count} {side}s, got {len(labels)}"
        )
    return [visible(label) for label in labels]


def heaviest(
    graph: AttentionGraph, lane: int, min_weight: float, max_edges: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Of :func:`edges_of` the heaviest, in ascending order of weight, so that they are drawn on
    top: senders, receivers, strength (weight over the largest one); and how many edges there are.
    """
    senders, receivers, weight = edges_of(graph, lane, min_weight)
    order = np.argsort(weight, kind="stable")[max(0, len(weight) - max_edges) :]
    senders, receivers, strength = senders[order], receivers[order], weight[order]
    if len(strength):
        strength = strength / strength.max()
    return senders, receivers, strength, len(weight)


def say_cut(ax: Axes, drawn: int, edges: int) -> None:
    """In a corner, where not all edges are drawn."""
    if 0 < drawn < edges:
        ax.text(
            1.0,
            1.0,
            f"the {drawn} heaviest of {edges} edges",
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color="#777777",
        )


def say_title(ax: Axes, title: str | None) -> None:
    """Written above on the left, as it is, never as a formula."""
    if title is not None:
        (text,), families = readable([title], "sans-serif")
        ax.set_title(
            text, fontsize=10, fontfamily=families, color=INK, loc="left", parse_math=False
        )


def lane_name(graph: AttentionGraph, lane: int) -> str:
    lane %= graph.num_lanes
    if len(graph.batch_shape) != 2:
        return f"lane {lane}"
    sequence, head = divmod(lane, graph.batch_shape[1])
    return f"sequence {sequence}, head {head}"


def new_axes(width: float, height: float) -> Any:
    figures = require("matplotlib.figure", extra="viz", why="plotting a graph")
    return figures.Figure(
        figsize=(width, height), dpi=150, layout="constrained", facecolor="white"
    ).subplots()


def figure_of(ax: Axes) -> Any:
    return ax.get_figure(root=True)


def rise(distance: np.ndarray) -> np.ndarray:
    """Far arcs rise less than in proportion, so that near ones stay visible under them."""
    return np.abs(distance) ** 0.8


def tint(side: float | np.ndarray, strength: np.ndarray) -> Any:
    """RGB ``[..., 3]``: pale at strength 0, the side's colour at strength 1. Opaque, so that pieces
    of an arc join.
    """
    colors = require("matplotlib.colors", extra="viz", why="plotting a graph")
    forward, backward = np.array(colors.to_rgb(FORWARD)), np.array(colors.to_rgb(BACKWARD))
    colour = np.where(np.asarray(side)[..., None] > 0, forward, backward)
    return 1 - (1 - colour) * (0.25 + 0.75 * np.sqrt(strength.clip(0))[..., None])


def arcs_of(
    start: np.ndarray, stop: np.ndarray, side: np.ndarray, strength: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half ellipses in pieces: lines ``[A * STEPS, 2, 2]``, widths ``[A * STEPS]``, colours
    ``[A * STEPS, 3]``.
    """
    # Arcs leave a token on one side and arrive on the other, so that heads and tails do not meet.
    towards = np.sign(stop - start)
    start, stop = start + 0.16 * towards, stop - 0.16 * towards
    angle = np.linspace(math.pi, 0, STEPS + 1)
    x = (start + stop)[:, None] / 2 + np.cos(angle) * (stop - start)[:, None] / 2
    y = side[:, None] * (np.sin(angle) * rise(stop - start)[:, None] + 0.12)
    points = np.stack((x, y), axis=-1)
    lines = np.stack((points[:, :-1], points[:, 1:]), axis=2).reshape(-1, 2, 2)
    along = np.linspace(0.3, 1.0, STEPS)
    widths = (0.4 + 2.0 * strength)[:, None] * along
    colours = tint(np.repeat(side[:, None], STEPS, axis=1), strength[:, None] * along)
    return lines, widths.reshape(-1), colours.reshape(-1, 3)


def name_ticks(ax: Axes, axis: str, names: list[str] | None, *, inches: float) -> None:
    """Labels on an axis, sized to ``inches``; every k-th where they would not fit. Numbers where
    there are no names.
    """
    target = ax.xaxis if axis == "x" else ax.yaxis
    target.set_tick_params(length=0 if axis == "x" else 2, colors=INK, labelsize=7)
    if names is None:
        from matplotlib.ticker import MaxNLocator

        target.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        return
    points = 72 * inches / max(len(names), 1)
    size = min(max(0.85 * points, 5.0), 9.0)
    every = max(1, math.ceil(1.1 * size / max(points, 1e-9)))
    room = points * every
    places = range(0, len(names), every)
    shown, families = readable([names[i] for i in places], "monospace")
    target.set_ticks(list(places), labels=[shortened(name) for name in shown])
    for label in target.get_ticklabels():
        upright = axis == "y" or len(label.get_text()) * size * 0.62 <= room
        label.set(rotation=0 if upright else 90, fontsize=size, fontfamily=families, color=INK)
        label.set_parse_math(False)  # a token may be a dollar sign


def say_empty(ax: Axes, graph: AttentionGraph, lane: int, min_weight: float | None) -> None:
    """In the middle, where no edge is drawn."""
    there = min_weight is not None and graph.lane(lane).num_edges
    text = f"no edges above {min_weight:g}" if there else "no edges"
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
