"""The losses of a run over its steps, and what pictures of numbers over steps share."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphformer.errors import require
from graphformer.inspect.drawing import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, which every kind of colour vision tells apart."""
WIDTH = 7.0
"""Inches: two columns of a journal."""
HISTORY_FILE = "metrics.jsonl"


def plot_losses(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Training and validation loss over the steps of a run, with the lowest validation loss marked.

    The training loss is the mean since the last log, with dropout; the validation loss is exact.

    Args:
        source: the folder of a run of the command line (its ``metrics.jsonl``), or the ``history``
            of a result.
        path: of a file to write (PNG, or what its suffix says).

    Raises:
        ValueError: no losses there. MissingExtra: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="viz", why="a picture of losses")
    if isinstance(source, str | os.PathLike):
        file = Path(source) / HISTORY_FILE
        if not file.is_file():
            raise ValueError(
                f"source: {str(source)!r} holds no {HISTORY_FILE}; give the folder of a finished "
                "run, or the history of a result"
            )
        source = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines = list(source)
    found = {
        name: {line["step"]: line[key] for line in lines if math.isfinite(line.get(key, math.nan))}
        for name, key in (("training", "loss"), ("validation", "eval_loss"))
    }
    if not any(found.values()):
        raise ValueError(f"source: none of its {len(lines)} lines has a loss; give a run's history")
    figure = figures.Figure(figsize=(WIDTH / 2, 2.4), dpi=200, layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(found.items(), COLOURS, strict=False):
        if values:
            marker = "o" if len(values) == 1 else None
            axes.plot(
                *zip(*sorted(values.items()), strict=True),
                color=colour,
                lw=1.2,
                label=name,
                marker=marker,
                ms=3,
            )
    if held := found["validation"]:
        best = min(held, key=lambda step: held[step])
        told = f"lowest, {held[best]:.4g} at step {best:,}"
        axes.plot([best], [held[best]], "o", ms=4, mfc="none", color=COLOURS[1], label=told)
    plain(axes, xlabel="step", ylabel="loss")
    above(axes)
    if path is not None:
        figure.savefig(path)
    return figure


def shades(count: int) -> list[Any]:
    """A colour for each of ``count`` layers, the deeper the darker."""
    colours = require("matplotlib", extra="viz", why="a picture").colormaps["viridis_r"]
    return [colours(0.12 + 0.83 * k / max(count - 1, 1)) for k in range(count)]


def plain(axes: Axes, **named: str) -> None:
    """Small print, a light grid, no box."""
    axes.set(**named)
    axes.grid(True, color="#e3e3e3", lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, colors=INK)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.spines[["top", "right"]].set_visible(False)


def above(axes: Axes) -> None:
    """The legend, where it hides no line."""
    axes.legend(
        frameon=False,
        fontsize=7,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        columnspacing=1.0,
        handlelength=1.4,
    )


__all__ = ["plot_losses"]
