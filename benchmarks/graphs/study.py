"""One data set, several networks, several repeats: train each on the same parts in the same way,
measure, keep what is done.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import graphformer as gf
from benchmarks import report
from benchmarks.graphs.peers import Peer
from benchmarks.store import alone
from graphformer.training import GraphModel, GraphTrainer
from graphformer.training.graphs.metrics import regression_metrics

PEERS = {
    "gine": "GINEConv (PyG)",
    "gps": "GPSConv (PyG)",
    "gin-plus": "GIN+ (on PyG's GINEConv)",
    "gatedgcn-plus": "GatedGCN+",
}
OURS = {"sum": "ours, plain attention", "gin": "ours, GIN"}
OTHERS = {
    "sum-flat": "ours, plain attention, no levels",
    "sum-clusters": "ours, plain attention, learned clusters",
    "gin-own-norm": "ours, GIN with own features and norm",
    "gin-own": "ours, GIN with own features",
    "gin-norm": "ours, GIN with the norm",
    "sum-local-global": "ours, plain attention, half the heads on edges, half on all pairs",
    "sum-edge-update": "ours, plain attention, edges updated",
    "sum-batch-norm": "ours, plain attention, batch norm",
    "pna": "ours, PNA (mean, max, min; scaled by degree)",
    "cnn": "CNN on the image",
}
NAMES = PEERS | OURS | OTHERS
Metrics = dict[str, float]


@dataclass(frozen=True)
class Parts:
    """What one repeat trains on, validates on and is tested on: data sets or lists of ``Data``."""

    train: Any
    valid: Any
    tests: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A benchmark.

    Attributes:
        name: of the result file, ``graphs-<name>.json``.
        title: for tables and plots.
        parts: from the number of the repeat and whether it is a quick one.
        network: settings that all networks share: width, layers, targets, encodings, dropout.
        ours: further settings of our model: candidates, levels.
        training: of :class:`GraphTrainer`, for all networks alike.
        columns: names of the metrics to report.
        measure: metrics of a model on a test set.
        repeats: how many there are unless told otherwise: folds or seeds.
        folds: how many folds there are; repeats beyond them are the folds again, with other seeds.
            None: every repeat is a seed.
        published: what others report, in words.
        more: contenders beside the six: name to the network's class with all its settings, which
            are stored with its runs.
        baseline: metrics of a rule without training, if there is one.
    """

    name: str
    title: str
    parts: Callable[[int, bool], Parts]
    network: dict[str, Any]
    training: dict[str, Any]
    columns: tuple[str, ...]
    ours: dict[str, Any] = field(default_factory=dict)
    measure: Callable[[GraphModel, Any], Metrics] = lambda model, test: model.evaluate(test)
    repeats: int = 3
    folds: int | None = None
    published: str = ""
    more: dict[str, partial[torch.nn.Module]] = field(default_factory=dict)
    baseline: Callable[[Any], Metrics] | None = None

    @property
    def contenders(self) -> list[str]:
        return [*PEERS, *OURS, *self.more]

    def settings(self, name: str) -> dict[str, Any]:
        """Arguments of a network."""
        if name in self.more:
            return dict(self.more[name].keywords)
        return {**self.network, **(self.ours if name in OURS else {})}

    def build(self, name: str) -> Any:
        """A new network; seeded by the caller."""
        if name in self.more:
            return self.more[name]()
        if name in PEERS:
            return Peer(name, **self.settings(name))
        return gf.GraphTransformer(operator=name, **self.settings(name))


def per_target(names: tuple[str, ...], kind: str) -> Callable[[GraphModel, Any], Metrics]:
    """A measure: one of ``rmse``, ``mae``, ``r2`` for each column of y."""

    def measure(model: GraphModel, test: Any) -> Metrics:
        y = torch.cat([test[i].y for i in range(len(test))])
        found = model.predict(test)
        return {
            f"{name} {kind}": regression_metrics(found[:, [i]], y[:, [i]])[kind]
            for i, name in enumerate(names)
        }

    return measure


def run(
    study: Study, models: list[str], repeats: list[int], quick: bool, folder: Path | None
) -> dict[str, Any]:
    """Train and test; the file is written after every run, and a run that it holds with the same
    settings is not repeated.
    """
    training = {**study.training, **({"epochs": 1} if quick else {})}
    path = None if folder is None else folder / f"graphs-{study.name}.json"
    content: dict[str, Any] = {"study": study.name, "environments": [], "baseline": {}, "runs": []}
    if path is not None and path.is_file():
        content = json.loads(path.read_text())
    here = report.environment()
    for repeat in repeats:
        parts = study.parts(repeat, quick)
        if study.baseline is not None:
            content["baseline"][str(repeat)] = {
                name: study.baseline(test) for name, test in parts.tests.items()
            }
        for name in models:
            settings = json.loads(
                json.dumps({"network": study.settings(name), "training": training})
            )
            old = next(
                (one for one in content["runs"] if (one["model"], one["repeat"]) == (name, repeat)),
                None,
            )
            if old is not None and old["settings"] == settings:
                continue
            make = partial(study.build, name)
            found = train(make, repeat, parts, training, study.measure)
            new = {"model": name, "repeat": repeat, "settings": settings, **found}
            print(name, repeat, json.dumps(new["tests"]), f"{new['seconds']:.0f} s", flush=True)
            content = keep(content, new, here, path)
    return content


def keep(
    content: dict[str, Any], new: dict[str, Any], here: dict[str, Any], path: Path | None
) -> dict[str, Any]:
    """The content with one more run, in the file too; what another process has added to the file
    meanwhile stays.
    """
    with nullcontext() if path is None else alone(path):
        if path is not None and path.is_file():
            there = json.loads(path.read_text())
            content = {**there, "baseline": there["baseline"] | content["baseline"]}
        which = new["model"], new["repeat"]
        others = [one for one in content["runs"] if (one["model"], one["repeat"]) != which]
        content = {**content, "runs": [*others, new]}
        if here not in content["environments"]:
            content["environments"] = [*content["environments"], here]
        if path is not None:
            report.save(path.stem, content, path.parent)
    return content


def train(
    make: Callable[[], Any],
    seed: int,
    parts: Parts,
    training: dict[str, Any],
    measure: Callable[[GraphModel, Any], Metrics] | None,
) -> dict[str, Any]:
    """One network on the parts of one repeat; tested where there is a measure."""
    transformers.set_seed(seed)
    net = make()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        options = {"seed": seed, "save_total_limit": 1, "progress": False, **training}
        trainer = GraphTrainer(net, parts.train, parts.valid, Path(folder) / "run", **options)
        result = trainer.fit()
    found = {
        "parameters": sum(one.numel() for one in net.parameters()),
        "seconds": round(time.process_time() - start, 1),
        "epochs": result.epochs,
        "validation": result.metrics,
        "curve": [
            [line["step"], line["eval_loss"]] for line in result.history if "eval_loss" in line
        ],
    }
    if measure is not None:
        found["tests"] = {test: measure(result.model, data) for test, data in parts.tests.items()}
    return found


# ---------------------------------------------------------------------- what came out


def values(content: dict[str, Any], model: str, test: str, column: str) -> list[float]:
    """A metric over repeats, in their order."""
    runs = sorted(
        (one for one in content["runs"] if one["model"] == model), key=lambda one: one["repeat"]
    )
    return [one["tests"][test][column] for one in runs]


def by_repeat(content: dict[str, Any], model: str, test: str, column: str) -> dict[int, float]:
    runs = [one for one in content["runs"] if one["model"] == model]
    return {one["repeat"]: one["tests"][test][column] for one in runs}


def table(study: Study, content: dict[str, Any]) -> str:
    """Mean and standard deviation over repeats, and the paired differences of GIN to plain
    attention and of that to the best peer with as many runs.
    """
    tests = list(content["runs"][0]["tests"])
    header = [
        "",
        "parameters",
        "CPU s a run",
        "repeats",
        *(f"{test}: {column}" for test in tests for column in study.columns),
    ]
    rows = []
    baselines = content["baseline"].values()
    if baselines:
        ruled = [
            f"{statistics.fmean(one[test].get(column, math.nan) for one in baselines):.4f}"
            for test in tests
            for column in study.columns
        ]
        rows.append(["rule of thumb", "0", "", str(len(content["baseline"])), *ruled])
    for model in study.contenders:
        runs = [one for one in content["runs"] if one["model"] == model]
        if not runs:
            continue
        cells = []
        for test in tests:
            for column in study.columns:
                found = values(content, model, test, column)
                spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
                cells.append(f"{statistics.fmean(found):.4f}{spread}")
        seconds = statistics.fmean(one["seconds"] for one in runs)
        rows.append(
            [NAMES[model], f"{runs[0]['parameters']:,}", f"{seconds:.0f}", str(len(runs)), *cells]
        )
    text = report.table(header, rows) + "\n\nmean ± standard deviation over repeats"
    test, column = tests[0], study.columns[0]
    pairs = {}
    if gin := pair(study, content, "gin", "sum"):
        pairs["GIN minus plain attention"] = gin
    if best := best_peer(study, content):
        what = f"plain attention minus the best peer, {NAMES[best]}"
        pairs[what] = pair(study, content, "sum", best)
    for what, differences in pairs.items():
        if len(differences) > 1:
            mean, half = report.interval(differences)
            text += f"; {what}, paired ({test}, {column}): {mean:+.4f} ± {half:.4f} (95 %)"
    return text + (f"\npublished: {study.published}" if study.published else "")


def pair(study: Study, content: dict[str, Any], one: str, other: str) -> list[float]:
    """Differences of the first metric, where both have the same repeats: by seed, or by fold the
    mean over its seeds, which share a test part and are not independent.
    """
    test, column = next(iter(content["runs"][0]["tests"])), study.columns[0]
    first, second = (by_repeat(content, name, test, column) for name in (one, other))
    if first.keys() != second.keys():
        return []
    apart: dict[int, list[float]] = {}
    for repeat in sorted(first):
        place = repeat % study.folds if study.folds else repeat
        apart.setdefault(place, []).append(first[repeat] - second[repeat])
    return [statistics.fmean(differences) for differences in apart.values()]


def best_peer(study: Study, content: dict[str, Any]) -> str | None:
    """The best in the mean of the peers that have as many runs as plain attention."""
    sign = 1 if higher_is_better(study.columns[0]) else -1
    means = {
        name: sign * statistics.fmean(differences)
        for name in PEERS
        if (differences := pair(study, content, name, "sum"))
    }
    return max(means, key=lambda name: means[name]) if means else None


def higher_is_better(column: str) -> bool:
    """Whether a metric of this name is a score and not an error."""
    return column.split()[-1] in ("r2", "accuracy")


def plot(study: Study, content: dict[str, Any], path: Path) -> None:
    """Every run as a point, the mean as a line, for each test and metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tests = list(content["runs"][0]["tests"])
    shown = [(test, column) for test in tests for column in study.columns]
    figure = Figure(
        figsize=(max(4.2 * len(shown), 7.5), 0.9 + 0.28 * len(study.contenders)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    models = [
        name for name in study.contenders if any(one["model"] == name for one in content["runs"])
    ][::-1]
    for axes, (test, column) in zip(
        figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True
    ):
        for row, model in enumerate(models):
            found = values(content, model, test, column)
            colour = "#d1691b" if NAMES[model].startswith("ours") else "#777777"
            axes.plot(found, [row] * len(found), "o", color=colour, alpha=0.6, markersize=5)
            axes.plot(
                [statistics.fmean(found)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2
            )
        axes.set(
            yticks=range(len(models)),
            yticklabels=[NAMES[name] for name in models],
            ylim=(-0.6, len(models) - 0.4),
        )
        axes.set_xlabel(
            f"{test}: {column} ({'higher' if higher_is_better(column) else 'lower'} is better)",
            fontsize=9,
        )
        axes.locator_params(axis="x", nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    figure.suptitle(study.title, fontsize=10)
    figure.savefig(path, dpi=130)
