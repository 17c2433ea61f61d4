"""Stored runs as numbers: by row, metric and seed, from whichever file holds them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.runner import shown
from benchmarks.store import Store

Values = dict[str, dict[str, dict[int, float]]]
"""``values[row][metric][seed]``."""

METRICS = {
    "validation": "lowest validation loss, nats",
    "perplexity": "lowest validation perplexity",
    "test": "test loss, nats",
    "gap": "validation less training loss after the last epoch, nats",
    "best_round": "epoch of the lowest validation loss",
    "cpu": "CPU seconds a step",
    "lambda_first": "mean lambda after a twentieth of the training less that at the start",
    "lambda_rise": "mean lambda at the end less its lowest after the start",
    "lambda_deep": "growth of lambda in the last layer less that in the first",
}


def file_of(experiment: str, scale: str) -> str:
    return f"{experiment}-{scale}"


def values_of(experiment: str, folder: Path, scale: str) -> Values:
    """Of an experiment of this study, or of another benchmark's result file."""
    if experiment in EXPERIMENTS:
        return of_store(experiment, Store(file_of(experiment, scale), folder))
    return of_finetune(folder.parent / f"{experiment}.json")


def of_store(experiment: str, store: Store) -> Values:
    found: Values = {}
    for row in EXPERIMENTS[experiment].rows:
        for run in shown(store, row):
            for metric, value in of_run(run).items():
                found.setdefault(row, {}).setdefault(metric, {})[run["seed_data"]] = value
    return found


def of_run(run: dict[str, Any]) -> dict[str, float]:
    """The metrics of one run, from its curve."""
    best = min(run["curve"], key=lambda point: point["validation"])
    last = run["curve"][-1]
    return {
        "validation": best["validation"],
        "perplexity": math.exp(best["validation"]),
        "test": best["test"],
        "gap": last["validation"] - last["train"],
        "best_round": float(best["round"]),
        "cpu": run["cpu_seconds_per_step"],
    }


def of_finetune(path: Path) -> Values:
    """The result file of ``benchmarks.finetune``: test losses, and lambda over training."""
    if not path.is_file():
        return {}
    found: Values = {}
    for method, runs in json.loads(path.read_text())["runs"].items():
        for run in runs:
            metrics = {"test": run["loss"], **of_lambda(run.get("lambda"))}
            for metric, value in metrics.items():
                found.setdefault(method, {}).setdefault(metric, {})[run["seed"]] = value
    return found


def of_lambda(history: dict[str, Any] | None) -> dict[str, float]:
    """What the trained scale of the layers does, see :data:`METRICS`; nothing where there is
    none.
    """
    if not history or not history["layers"]:
        return {}
    values = history["values"]
    means = [sum(layers) / len(layers) for layers in values]
    return {
        "lambda_first": means[1] - means[0],
        "lambda_rise": means[-1] - min(means[1:]),
        "lambda_deep": (values[-1][-1] - values[0][-1]) - (values[-1][0] - values[0][0]),
    }
