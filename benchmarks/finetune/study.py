"""All runs of one text: the grid of learning rates, then the seeds. Each run is kept as soon as it
is done, and two processes may share the methods of a text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import transformers

from benchmarks import report
from benchmarks.finetune.data import load
from benchmarks.finetune.methods import THRESHOLD, wrap
from benchmarks.finetune.train import train
from benchmarks.store import alone, refuse_others
from graphformer.training import evaluate

GRID = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LARGE_GRID = (1e-4, 3e-4, 1e-3, 2e-3, 5e-3)
"""For models of a hundred million parameters and more; 1e-4 is the rate of most methods in PEFT's
own comparison (method_comparison/MetaMathQA), 5e-3 that of its IA3.
"""
GRID_SEED = 100
CONTEXT, QUICK_CONTEXT = 256, 32
USUAL_RANK = 8

Content = dict[str, Any]


def study(name: str, options: argparse.Namespace, folder: Path | None) -> Content:
    """All runs of one text. What ``options`` says beside the methods and the number of seeds is of
    the settings; a file of other settings is left alone.
    """
    context = QUICK_CONTEXT if options.quick else CONTEXT
    task = load(name, options.model, context, options.windows, options.examples, options.quick)
    settings = {
        "text": name,
        "tokens": task.tokens,
        "context": context,
        "steps": options.steps,
        "batch": options.batch,
        "grid": list(options.grid),
        "threshold": THRESHOLD,
    }
    if options.model is not None:
        settings["model"] = options.model.name
    if options.examples is not None:
        settings["examples"] = options.examples
    if options.rank != USUAL_RANK:
        settings["rank"] = options.rank
    stem = result_name(name, options)
    content: Content = {**report.environment(), "settings": settings, "grid": {}, "runs": {}}
    join(content, stem, folder)
    if "untrained" not in content:
        content["untrained"] = {
            part: evaluate(task.fresh(), task.data[part]).loss_nats_per_token
            for part in ("validation", "test")
        }

    def once(kind: str, method: str, rate: float, seed: int) -> None:
        done = content[kind].setdefault(method, [])
        if any(run["seed"] == seed and run["rate"] == rate for run in done):
            return
        transformers.set_seed(seed)
        final = "validation" if kind == "grid" else "test"
        result = train(
            wrap(method, task.fresh(), options.rank),
            task.data | {"train": task.train_set(seed)},
            rate,
            seed,
            options.steps,
            options.batch,
            final,
            keep_best=options.examples is not None,
        )
        done.append(result)
        print(
            f"{name} {method} rate {rate:g} seed {seed}: {final} {result['loss']:.4f} in "
            f"{result['cpu_seconds']:.0f} s",
            flush=True,
        )
        keep(content, stem, folder)

    for method in options.methods:
        while (rate := untried(options.grid, content["grid"].get(method, []))) is not None:
            once("grid", method, rate, GRID_SEED)
    for seed in range(options.seeds):
        for method in options.methods:
            once("runs", method, chosen(content, method), seed)
    return content


def result_name(text: str, options: argparse.Namespace) -> str:
    model = [] if options.model is None else [options.model.name]
    examples = [] if options.examples is None else [f"examples-{options.examples}"]
    rank = [] if options.rank == USUAL_RANK else [f"rank-{options.rank}"]
    return "-".join(["finetune", *model, text, *examples, *rank])


def join(content: Content, stem: str, folder: Path | None) -> None:
    """Take in the stored runs; ends the program where they are of other settings."""
    path = None if folder is None else folder / f"{stem}.json"
    if path is None or not path.is_file():
        return
    before = json.loads(path.read_text())
    refuse_others(path, before["settings"], content["settings"])
    content.setdefault("untrained", before["untrained"])
    for kind in ("grid", "runs"):
        for method, runs in before[kind].items():
            mine = content[kind].setdefault(method, [])
            known = {(run["rate"], run["seed"]) for run in mine}
            mine.extend(run for run in runs if (run["rate"], run["seed"]) not in known)
            mine.sort(key=lambda run: run["seed"])


def keep(content: Content, stem: str, folder: Path | None) -> None:
    """Store what is there, beside what another process has stored meanwhile."""
    if folder is None:
        return
    with alone(folder / f"{stem}.json"):
        join(content, stem, folder)
        report.save(stem, content, folder)


def untried(grid: tuple[float, ...], done: list[dict[str, Any]]) -> float | None:
    """The next learning rate to try: the middle one, then the neighbours of the best so far; None
    where both are known, or the grid ends there.
    """
    losses = {run["rate"]: run["loss"] for run in done}
    if not losses:
        return grid[len(grid) // 2]
    best = grid.index(min(losses, key=lambda rate: losses[rate]))
    near = [grid[i] for i in (best - 1, best + 1) if 0 <= i < len(grid)]
    return next((rate for rate in near if rate not in losses), None)


def chosen(content: Content, method: str) -> float:
    """The learning rate of the lowest validation loss."""
    return min(content["grid"][method], key=lambda run: run["loss"])["rate"]
