"""What was predicted against what is true: a parity plot, or a confusion matrix of classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.errors import require
from graphformer.inspect.drawing import FORWARD, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELLS = 12  # classes up to which the cells of a confusion matrix hold their counts


def plot_parity(
    true: Any,
    predicted: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Predicted against true values, one plot a column, with the diagonal on which both agree.

    In the title of each are ``R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2``, the mean absolute
    error ``MAE = mean |y - p|`` in the unit of the values, and how many there are. With
    ``classes``: the confusion matrix, a row a true class, coloured by the share of the row, and the
    accuracy.

    Args:
        true: ``[N]`` or ``[N, k]``, arrays or tensors; labels that are NaN are left out and
            counted. With ``classes`` their places in it.
        predicted: of the same shape.
        path: of a file to write (PNG, or what its suffix says).
        names: of the ``k`` columns, with their unit; ``classes``: the names of the classes.

    Raises:
        ValueError: shapes, names or classes that do not fit; no label; predictions that are not
            finite.
        MissingExtra: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="viz", why="a parity plot")
    y, p = _columns("true", true), _columns("predicted", predicted)
    if y.shape != p.shape:
        raise ValueError(
            f"predicted must have the shape of true, {list(y.shape)}, got {list(p.shape)}."
        )
    count = y.shape[1]
    if names is not None and len(names) != count:
        raise ValueError(f"names must hold a name for each of {count} columns, got {len(names)}.")
    titles = ["" if names is None else str(names[k]) for k in range(count)]
    for k in range(count):
        there = ~np.isnan(y[:, k])
        if not there.any():
            raise ValueError(f"true holds no label in column {k}: all are NaN; give some.")
        if not np.isfinite(p[there, k]).all() or not np.isfinite(y[there, k]).all():
            raise ValueError(f"column {k} holds values that are not finite; leave them out.")
    width = min(count, 3)
    side = 4.2 if classes is None else min(3.4 + 0.2 * len(classes), 9.0)
    figure = figures.Figure(
        figsize=(side * width, (side + 0.3) * -(-count // width)), dpi=130, layout="constrained"
    )
    places = list(figure.subplots(-(-count // width), width, squeeze=False).flat)
    for k, axes in enumerate(places):
        if k >= count:
            axes.set_axis_off()
            continue
        there = ~np.isnan(y[:, k])
        missing = int((~there).sum())
        told = f"{there.sum()} values" + (f", {missing} without a label" if missing else "")
        if classes is None:
            _scatter(axes, y[there, k], p[there, k], titles[k], told)
        else:
            _confusion(axes, y[there, k], p[there, k], titles[k], told, classes)
    if path is not None:
        figure.savefig(path)
    return figure


def _columns(name: str, values: Any) -> np.ndarray:
    values = values.detach().cpu() if hasattr(values, "detach") else values
    found = np.asarray(values, dtype=float)
    if found.ndim not in (1, 2) or not found.size:
        raise ValueError(f"{name} must be [N] or [N, k] with N > 0, got {list(found.shape)}.")
    return found.reshape(len(found), -1)


def _scatter(axes: Axes, y: np.ndarray, p: np.ndarray, name: str, told: str) -> None:
    low, high = float(min(y.min(), p.min())), float(max(y.max(), p.max()))
    margin = 0.05 * (high - low) or 0.5
    span = (low - margin, high + margin)
    axes.plot(span, span, color="#9a9a9a", lw=1, zorder=1)
    many = len(y) > 400
    axes.scatter(
        y, p, s=8 if many else 18, color=FORWARD, alpha=0.35 if many else 0.7, lw=0, zorder=2
    )
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = f"R2 {1 - float(((y - p) ** 2).sum()) / spread:.3f}" if spread else "R2 of one value: none"
    axes.set_title(
        f"{name + ': ' if name else ''}{r2}, MAE {np.abs(y - p).mean():.3g}\n{told}",
        fontsize=10,
        color=INK,
        parse_math=False,
    )
    axes.set(xlim=span, ylim=span, xlabel="true", ylabel="predicted", aspect="equal")


def _confusion(
    axes: Axes, y: np.ndarray, p: np.ndarray, name: str, told: str, classes: Sequence[str]
) -> None:
    size = len(classes)
    for what, values in (("true", y), ("predicted", p)):
        if not ((values >= 0) & (values < size) & (values == values.round())).all():
            raise ValueError(
                f"{what} must hold places in classes, 0 to {size - 1}, got {values.min():g} to "
                f"{values.max():g}."
            )
    table = np.zeros((size, size), dtype=int)
    np.add.at(table, (y.astype(int), p.astype(int)), 1)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if size <= _CELLS:
        for i, j in np.ndindex(size, size):
            axes.text(
                j,
                i,
                f"{table[i, j]}\n{share[i, j]:.0%}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.6 else INK,
            )
    if size <= 40:
        axes.set_xticks(range(size), [str(one) for one in classes])
        axes.set_yticks(range(size), [str(one) for one in classes])
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(
        f"{name + ': ' if name else ''}accuracy {(y == p).mean():.3f}\n{told}",
        fontsize=10,
        color=INK,
        parse_math=False,
    )


__all__ = ["plot_parity"]
