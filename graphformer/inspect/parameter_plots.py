"""Alpha, epsilon, lambda and the like: over the layers of models, and over a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from graphformer.errors import require
from graphformer.inspect.curves import COLOURS, WIDTH, above, plain, shades
from graphformer.training.parameters import NAMES, own_numbers, read_parameters
from graphformer.training.run import PARAMETERS_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERS = dict[str, dict[str, list[float]]]  # by name in the formula, and layer
_SIGNS = {
    "alpha": r"$\alpha$",
    "eps": r"$\varepsilon$",
    "lambda": r"$\lambda$",
    "tau": r"$\tau$",
    "delta": r"$\delta$",
}


def plot_parameters(
    source: nn.Module | Mapping[str, nn.Module] | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The numbers of :func:`parameters`, a panel for each kind: over the layers of one or several
    models, or over a run (figures 6 and 12 of arXiv 2501.02393).

    Of models, each number of a layer is a dot (one a head where heads have their own), and a line
    joins the layers' means. Of a run there are two panels a kind: a line a layer over the steps,
    the deeper the darker, and the layers at the first and the last step.

    Args:
        source: a model; several by the names that the legend gives them; or the folder of a run
            that this library trained.
        path: of a file to write (PNG, or what its suffix says).

    Raises:
        ValueError: a model without such numbers, no model at all, or a folder without them.
        MissingExtra: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="viz", why="a picture of parameters")
    if isinstance(source, nn.Module):
        source = {"": source}
    if not isinstance(source, Mapping):
        figure = _of_run(figures, source)
    else:
        figure = _of_models(figures, source)
    if path is not None:
        figure.savefig(path)
    return figure


def _of_models(figures: Any, models: Mapping[str, nn.Module]) -> Figure:
    if not models:
        raise ValueError("source holds no model: give one, or several by their names")
    found = {label: _numbers(label, model) for label, model in models.items()}
    kinds = [name for name in NAMES.values() if any(name in one for one in found.values())]
    figure, panels = _panels(figures, len(kinds), min(len(kinds), 3))
    for axes, kind in zip(panels, kinds, strict=True):
        here = {label: one[kind] for label, one in found.items() if kind in one}
        for label, layers in here.items():
            _layers(axes, layers, COLOURS[list(found).index(label) % len(COLOURS)], label)
        _over_layers(axes, kind, max(map(len, here.values())))
        if len(found) > 1:
            above(axes)
    return figure


def _of_run(figures: Any, folder: str | os.PathLike[str]) -> Figure:
    lines = read_parameters(Path(folder))
    if not lines:
        raise ValueError(
            f"source: {str(folder)!r} holds no {PARAMETERS_FILE}; give the folder of a run whose "
            "layers have alpha, epsilon, lambda, ... (one that was trained by this version), or a "
            "model"
        )
    kinds = [name for name in NAMES.values() if name in lines[-1]]
    figure, panels = _panels(figures, 2 * len(kinds), 2)
    for kind, over_run, over_layers in zip(kinds, panels[::2], panels[1::2], strict=True):
        layers = list(lines[-1][kind])
        steps = [line["step"] for line in lines]
        for number, (layer, colour) in enumerate(zip(layers, shades(len(layers)), strict=True)):
            means = [_mean(line[kind][layer]) for line in lines]
            told = f"layer {number}" if number in (0, len(layers) - 1) or len(layers) <= 6 else None
            over_run.plot(steps, means, color=colour, lw=1.2, label=told)
        plain(over_run, xlabel="step", ylabel=_SIGNS.get(kind, kind))
        if len(layers) > 1:
            above(over_run)
        ends = [(lines[0], "#8c8c8c")] * (len(lines) > 1) + [(lines[-1], COLOURS[0])]
        for line, colour in ends:
            _layers(over_layers, line[kind], colour, f"step {line['step']:,}")
        _over_layers(over_layers, kind, len(layers))
        above(over_layers)
    return figure


def _numbers(label: str, model: nn.Module) -> _NUMBERS:
    found: _NUMBERS = {}
    for name, layer, parameter in own_numbers(model):
        found.setdefault(name, {})[layer] = parameter.detach().double().flatten().tolist()
    if not found:
        named = f"source[{label!r}]: {type(model).__name__}" if label else type(model).__name__
        raise ValueError(f"{named} has none of {', '.join(NAMES.values())}")
    return found


def _layers(axes: Axes, layers: Mapping[str, list[float]], colour: Any, label: str) -> None:
    """The dots of each number, and the line of means."""
    places = [x for x, values in enumerate(layers.values()) for _ in values]
    points = [value for values in layers.values() for value in values]
    axes.scatter(places, points, s=10, color=colour, alpha=0.55, lw=0, zorder=2)
    means = [_mean(values) for values in layers.values()]
    axes.plot(range(len(means)), means, color=colour, lw=1.2, label=label or None, zorder=3)


def _over_layers(axes: Axes, kind: str, count: int) -> None:
    plain(axes, xlabel="layer", ylabel=_SIGNS.get(kind, kind))
    axes.set_xticks(range(0, count, -(-count // 16)))
    axes.margins(x=0.08)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _panels(figures: Any, count: int, columns: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    width = WIDTH if columns > 1 else WIDTH / 2
    figure = figures.Figure(figsize=(width, 2.2 * rows), dpi=200, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


__all__ = ["plot_parameters"]
