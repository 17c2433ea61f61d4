"""The figures of the page, drawn from stored runs: means over seeds with 95 % bands."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.paper import noise, verdicts
from benchmarks.paper.claims import GAMMAS, Claim
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.runner import shown
from benchmarks.paper.statistics import interval
from benchmarks.paper.tables import title
from benchmarks.paper.values import file_of, of_run, values_of
from benchmarks.store import Store

COLOURS = ("#777777", "#2a6fbb", "#d1691b", "#3a8f4c", "#8250a8", "#b8322a", "#008b8b", "#a0791a")


def draw(claim: Claim, folder: Path, scale: str, path: Path) -> None:
    """The figure of a claim, into ``path``."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    DRAWN[claim.figure or ""](claim, folder, scale, figure)
    own = claim.experiment in EXPERIMENTS
    where = f"{EXPERIMENTS[claim.experiment].title}, {scale} scale" if own else claim.where
    figure.suptitle(where, fontsize=9)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def band(axes: Axes, x: list[float], rows: np.ndarray, **style: Any) -> None:
    """The mean of ``rows`` ``[seeds, len(x)]`` with its band."""
    (line,) = axes.plot(x, rows.mean(0), linewidth=1.6, **style)
    ends = np.array([interval(column) for column in rows.T])
    if np.isfinite(ends).all():
        axes.fill_between(x, ends[:, 0], ends[:, 1], color=line.get_color(), alpha=0.2, linewidth=0)


def _rows(claim: Claim, folder: Path, scale: str) -> Iterable[tuple[str, str, list[Any]]]:
    """Colour, title and runs of each row that has some."""
    store = Store(file_of(claim.experiment, scale), folder)
    with_runs = [(row, runs) for row in claim.rows if (runs := shown(store, row))]
    for number, (row, runs) in enumerate(with_runs):
        yield COLOURS[number % len(COLOURS)], title(row, claim.experiment), runs


def _of_curve(runs: list[Any], number: Callable[[dict[str, float]], float]) -> np.ndarray:
    return np.array([[number(point) for point in run["curve"]] for run in runs])


def _finish(*many: Axes) -> None:
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=8)


def curves(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Loss and perplexity over epochs."""
    left, right = figure.subplots(1, 2)
    for colour, name, runs in _rows(claim, folder, scale):
        rounds = [point["round"] for point in runs[0]["curve"]]
        train = _of_curve(runs, lambda point: point["train"])
        band(left, rounds, train, color=colour, linestyle="--")
        loss = _of_curve(runs, lambda point: point["validation"])
        band(left, rounds, loss, color=colour, label=name)
        band(right, rounds, np.exp(loss), color=colour, label=name)
        for run in runs:  # where each run is best
            best = of_run(run)
            right.plot(best["best_round"], best["perplexity"], "o", color=colour, markersize=3)
    left.set(xlabel="epoch", ylabel="nats (dashed: training)")
    right.set(xlabel="epoch (points: each run's best)", ylabel="validation perplexity")
    right.legend(fontsize=7, frameon=False)
    _finish(left, right)


def gap(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Validation less training loss over epochs."""
    axes = figure.subplots()
    for colour, name, runs in _rows(claim, folder, scale):
        rounds = [point["round"] for point in runs[0]["curve"]]
        gaps = _of_curve(runs, lambda point: point["validation"] - point["train"])
        band(axes, rounds, gaps, color=colour, label=name)
    axes.set(xlabel="epoch", ylabel="validation less training loss, nats")
    axes.legend(fontsize=7, frameon=False)
    _finish(axes)


def gamma(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Perplexity over gamma."""
    axes, values = figure.subplots(), values_of(claim.experiment, folder, scale)
    rows = [row for row in GAMMAS if row in values]
    found = [list(values[row]["perplexity"].values()) for row in rows]
    fields = [EXPERIMENTS[claim.experiment].rows[row].config for row in rows]
    x = [float(one["mlp_ratio"]) for one in fields if not callable(one)]
    seeds = min(map(len, found))
    band(axes, x, np.array([one[:seeds] for one in found]).T, color=COLOURS[2], marker="o")
    axes.set(xscale="log", xlabel="gamma", ylabel="lowest validation perplexity")
    axes.set_xticks(x, [f"{one:g}" for one in x])
    _finish(axes)


def alpha(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """The trained sharpening of each layer over epochs."""
    axes = figure.subplots()
    runs = shown(Store(file_of(claim.experiment, scale), folder), "gin")
    found = np.array([run["sharpening"] for run in runs])  # [seeds, rounds + 1, layers]
    for layer in range(found.shape[2]):
        x = list(range(found.shape[1]))
        band(axes, x, found[:, :, layer], color=COLOURS[layer + 1], label=f"layer {layer + 1}")
    axes.set(xlabel="epoch", ylabel="sharpening")
    axes.legend(fontsize=7, frameon=False)
    _finish(axes)


def effects(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Each comparison with its interval."""
    found = verdicts.judge(claim, lambda name: values_of(name, folder, scale))
    found = [one for one in found if one.effect is not None][::-1]
    figure.set_size_inches(7.5, 1.2 + 0.32 * len(found))
    axes = figure.subplots()
    for place, one in enumerate(found):
        effect = one.effect
        assert effect is not None
        colour = {1: COLOURS[3], -1: COLOURS[5], 0: COLOURS[0]}[one.outcome]
        if math.isfinite(effect.low):
            axes.plot([effect.low, effect.high], [place] * 2, color=colour, linewidth=2)
        axes.plot(effect.mean, place, "o", color=colour, markersize=5)
    axes.axvline(0, color="#333333", linewidth=0.8)
    names = [title(one.contrast.row, claim.experiment) for one in found]
    if len(set(names)) < len(names):  # one row against several
        bases = [title(str(one.contrast.base), claim.experiment) for one in found]
        names = [f"{name}\nminus {base}" for name, base in zip(names, bases, strict=True)]
    axes.set_yticks(range(len(found)), names, fontsize=7)
    less = ", beyond plain attention's gain" if found and found[0].contrast.less else ""
    axes.margins(y=0.3 if len(found) < 3 else 0.05)
    figure.supxlabel(f"nats{less} (left is better; grey: undecided)", fontsize=8)
    _finish(axes)


def lambdas(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """The trained scale of each layer over the steps, of both texts."""
    names = list(dict.fromkeys(one.experiment or claim.experiment for one in claim.contrasts))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        runs = json.loads((folder.parent / f"{name}.json").read_text())["runs"]["sparse-gin"]
        found = np.array([run["lambda"]["values"] for run in runs])
        for layer in range(found.shape[2]):
            steps, colour = runs[0]["lambda"]["steps"], COLOURS[layer + 1]
            band(axes, steps, found[:, :, layer], color=colour, label=f"layer {layer + 1}")
        axes.set(xlabel="step", ylabel="lambda", title=of_file(name))
        axes.legend(fontsize=7, frameon=False)
        _finish(axes)


def tuned(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Validation losses over the steps of fine-tuning, of each text; the untrained model's loss is
    left out, which is far above.
    """
    names = list(dict.fromkeys(one.experiment or claim.experiment for one in claim.contrasts))
    files = {name: folder.parent / f"{name}.json" for name in names}
    stored = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    stored = {name: one for name, one in stored.items() if set(claim.rows) & set(one["runs"])}
    all_axes = figure.subplots(1, len(stored), squeeze=False)[0]
    for axes, (name, content) in zip(all_axes, stored.items(), strict=True):
        for number, row in enumerate(one for one in claim.rows if one in content["runs"]):
            runs = content["runs"][row]
            steps = [step for step, _ in runs[0]["curve"][1:]]
            losses = np.array([[loss for _, loss in run["curve"][1:]] for run in runs])
            label = f"{title(row, name)} ({len(runs)})"
            band(axes, steps, losses, color=COLOURS[number], label=label)
        axes.set(xlabel="step", ylabel="validation loss, nats", title=of_file(name))
        axes.title.set_fontsize(9)
        axes.legend(fontsize=7, frameon=False, title="seeds in brackets", title_fontsize=7)
        _finish(axes)


def of_file(name: str) -> str:
    return name.removeprefix("finetune-")


def spread(claim: Claim, folder: Path, scale: str, figure: Figure) -> None:
    """Losses of each draw of the weights: a column a draw, a point an order of the data."""
    store = Store(file_of(claim.experiment, scale), folder)
    grids = {row: grid for row in claim.rows if (grid := noise.grid_of(store, row)) is not None}
    axes = figure.subplots()
    for place, grid in enumerate(grids.values()):
        for draw_, losses in enumerate(grid):
            x = place + 0.7 * (draw_ - (len(grid) - 1) / 2) / len(grid)
            axes.plot([x] * len(losses), losses, "o", color=COLOURS[place], markersize=4)
            axes.plot(x, losses.mean(), "_", color="#000000", markersize=9)
    names = [textwrap.fill(title(one, "noise"), 14) for one in grids]
    axes.set_xticks(range(len(grids)), names, fontsize=7)
    axes.set(ylabel="lowest validation loss, nats\n(a column a draw)")
    _finish(axes)


DRAWN: dict[str, Callable[[Claim, Path, str, Figure], None]] = {
    "curves": curves,
    "gap": gap,
    "gamma": gamma,
    "alpha": alpha,
    "effects": effects,
    "lambda": lambdas,
    "tuned": tuned,
    "noise": spread,
}
