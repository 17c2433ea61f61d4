"""What the pictures of polymers, proteins and microstructures have in common."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch_geometric.data import Data

    from graphformer.graph import AttentionGraph
    from graphformer.training import GraphModel

_BLUE = (0.05, 0.25, 0.65)


def refined_graph(model: GraphModel, data: Data) -> AttentionGraph:
    """The refined graph of the last layer over the nodes of ``data`` (not those of coarse levels):
    what its merged heads have found.
    """
    return model.output(data).refined[-1 - len(model.net.levels)].lane(0)


def shares(graph: AttentionGraph) -> np.ndarray:
    """``[E]``: the weight of each edge over an equal share of what its receiver gets, ``n_i w_ij /
    sum_j w_ij`` with ``n_i`` edges at receiver i; 0 where nothing is received.
    """
    receivers = graph.receivers.cpu().numpy()
    weight = graph.weight.detach().double().cpu().numpy()
    total = np.bincount(receivers, weights=weight, minlength=graph.num_receivers)
    count = np.bincount(receivers, minlength=graph.num_receivers)
    gets = total[receivers]
    return np.divide(weight * count[receivers], gets, out=np.zeros_like(weight), where=gets != 0)


def draw_lines(axes: Axes, lines: Any, strength: np.ndarray, *, widest: float, zorder: int) -> None:
    """Lines in blue, the strongest on top; ``strength`` in [0, 1] is their width and opacity."""
    collections = require("matplotlib.collections", extra="viz", why="a picture of a graph")
    if not len(strength):
        return
    order = np.argsort(strength, kind="stable")
    strong = strength[order]
    colours = np.column_stack([np.tile(_BLUE, (len(order), 1)), 0.06 + 0.94 * strong])
    axes.add_collection(
        collections.LineCollection(
            np.asarray(lines)[order],
            linewidths=0.25 + (widest - 0.25) * strong,
            colors=colours,
            zorder=zorder,
            capstyle="round",
        )
    )


def new_figure(wide: float, high: float) -> Figure:
    figures = require("matplotlib.figure", extra="viz", why="a picture of a graph")
    figure = figures.Figure(figsize=(wide, high), dpi=130, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    return figure


def titled(axes: Axes, title: str, width: int) -> None:
    """A title in lines of at most ``width`` letters."""
    lines = [
        part
        for line in title.split("\n")
        for part in textwrap.wrap(line, width, break_on_hyphens=False)
    ]
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)


def written(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure
