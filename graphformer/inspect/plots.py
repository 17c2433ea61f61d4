"""A head as arcs and as a matrix, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphformer.errors import number, require, whole
from graphformer.graph import AttentionGraph
from graphformer.inspect.drawing import INK, lane_name
from graphformer.inspect.glyphs import readable, visible
from graphformer.inspect.lane_plots import plot_adjacency, plot_graph
from graphformer.inspect.two_rows import plot_rows
from graphformer.inspect.windows import part, shown_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graphformer.inspect.value import ModelGraphs

__all__ = ["plot_adjacency", "plot_graph", "plot_head", "plot_layer", "plot_rows", "visible"]


def plot_head(
    graph: AttentionGraph,
    lane: int = 0,
    labels: Sequence[object] | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    receiver_labels: Sequence[object] | None = None,
    min_weight: float = 0.0,
    max_edges: int = 1000,
    window: tuple[int, int] | None = None,
    title: str | None = None,
) -> Figure:
    """One lane as arcs and as a matrix, side by side; written to ``path`` (PNG, or what its suffix
    says) where given. What was left out stands in the title.

    Args:
        graph: any graph.
        lane: which lane.
        labels: one a sender, usually the tokens as text. Numbers when left out.
        path: of a file to write.
        receiver_labels: one a receiver, where receivers are other nodes than senders
            (cross-attention): there are two rows in place of arcs.
        min_weight: edges of greater weight are drawn and counted, others are not.
        max_edges: at most so many arcs, the heaviest; the matrix has all edges.
        window: ``(first, stop)``, the nodes that are drawn. When left out and there are more than
            100, the 100 consecutive ones with the most weight between them; ``(0, n)`` draws all.
        title: the lane, and its sequence and head, when left out.

    Raises:
        IndexError: there is no such lane.
        ValueError, TypeError: an argument that does not fit the graph.
        MissingExtra: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="viz", why="plotting a graph")
    number("min_weight", min_weight)
    whole("max_edges", max_edges, 0)
    one = graph.lane(lane)
    for name, given, count in (
        ("labels", labels, one.num_senders),
        ("receiver_labels", receiver_labels, one.num_receivers),
    ):
        if given is not None and len(given) != count:
            side = "sender" if name == "labels" else "receiver"
            raise ValueError(
                f"{name} must hold one label for each of the {count} {side}s, got {len(given)}"
            )
    crossing = receiver_labels is not None
    shown = shown_of(one, window, min_weight, crossing)
    tokens = max(shown.graph.num_senders, shown.graph.num_receivers if crossing else 0)
    matrix = min(max(3.6, 1.6 + 0.15 * tokens), 10.0)
    arcs = min(max(4.5, 1.0 + 0.24 * tokens), 20.0)
    figure = figures.Figure(
        figsize=(arcs + matrix + 0.8, matrix), dpi=150, layout="constrained", facecolor="white"
    )
    left, right = figure.subplots(1, 2, width_ratios=[arcs, matrix + 0.8])
    named: dict[str, Any] = {
        "labels": part(labels, shown.senders, one.num_senders),
        "min_weight": min_weight,
    }
    if crossing:
        named["receiver_labels"] = part(receiver_labels, shown.receivers, one.num_receivers)
    draw = plot_rows if crossing else plot_graph
    draw(shown.graph, ax=left, max_edges=max_edges, **named)
    plot_adjacency(shown.graph, ax=right, **named)
    name = lane_name(graph, lane) if title is None else title
    counted = f"({_counted(one, shown, min_weight)})"
    gap = "  " if len(name) + len(counted) < 60 else "\n"
    (text,), families = readable([name + gap + counted], "sans-serif")
    figure.suptitle(text, fontsize=11, fontfamily=families, color=INK, parse_math=False)
    if path is not None:
        figure.savefig(path)
    return figure


def _counted(one: AttentionGraph, shown: Any, min_weight: float) -> str:
    """How many edges are drawn, and which nodes."""
    drawn = int((shown.graph.weight > min_weight).sum())
    total = f"{one.num_edges} edge{'' if one.num_edges == 1 else 's'}"
    if drawn == one.num_edges:
        return "; ".join((total, *shown.notes))
    light = int((one.weight <= min_weight).sum())
    cut = (f"weight above {min_weight:g}",) if light else ()
    return "; ".join((f"{drawn} of {total}", *cut, *shown.notes))


def plot_layer(
    graphs: ModelGraphs,
    layer: int | str = 0,
    head: int | None = None,
    *,
    sequence: int = 0,
    **options: Any,
) -> Figure:
    """One head of a model as arcs and as a matrix, with the labels of its nodes; the mean over
    heads where ``head`` is None. Padding is left out.

    Args:
        graphs: of :func:`graphformer.inspect.graphs`.
        layer: its number or its name.
        head: its number in the model.
        sequence: of the batch.
        options: ``path``, ``min_weight``, ``max_edges``, ``window``, ``title``, ``labels``,
            ``receiver_labels`` of :func:`plot_head`.

    Raises:
        IndexError, KeyError: there is no such layer, head or sequence.
        ValueError, TypeError, MissingExtra: as :func:`plot_head`.
    """
    one = graphs.of_sequence(sequence)
    chosen = one.layer(layer)
    if head is not None:
        graph, what = one.head(chosen, head), f"head {head}"
    elif chosen.heads:
        graph, what = chosen.graph.merge_heads("mean"), f"mean of {len(chosen.heads)} heads"
    else:
        graph, what = chosen.graph, "heads merged"
    senders, receivers = one.labels(layer)
    place = f", sequence {sequence}" if graphs.batch > 1 else ""
    named: dict[str, Any] = {
        "labels": senders,
        "title": f"{graphs.model}: {chosen.name}, {what}{place}".removeprefix(": "),
    }
    if chosen.kind == "cross":
        named["receiver_labels"] = receivers
    return plot_head(graph, 0, **{**named, **options})
