"""Settings searched by validation, with the same budget for every body.

Every body, ours and the peers, has the width at which its number of parameters is nearest to that
of our plain attention in the study. It gets the same tries: each learning rate of ``RATES`` with
each dropout of ``DROPOUTS``, trained with the seed ``SEED``, which no table has. The try with the
lowest validation loss is trained again with the seeds of the table, and tested. No try is tested.

Where a study has folds each fold has a search of its own, on the part that trains and the one that
validates there: what was searched on one fold has seen the test parts of the others. Where parts
are drawn from a seed, those of ``SEED`` are searched on. Where there is one split it is the same,
but for its test part.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.graphs.study import NAMES, OURS, PEERS, Parts, Study, train
from benchmarks.store import Store

RATES, DROPOUTS = (1e-3, 2e-3, 4e-3), (0.0, 0.2)
SEED = 1000
BODIES = (*PEERS, *OURS)
MOST = 512
"""The largest width."""


def parameters(study: Study, name: str) -> int:
    with torch.device("meta"):  # counted, not made
        return sum(one.numel() for one in study.build(name).parameters())


def with_settings(study: Study, **network: Any) -> Study:
    """The study with other settings for all networks."""
    return dataclasses.replace(study, network=study.network | network)


def width(study: Study, name: str) -> int:
    """The multiple of the number of heads with which the body has as many parameters as our plain
    attention has in the study, or nearly so.
    """
    heads, budget = study.network["num_heads"], parameters(study, "sum")

    def count(number: int) -> int:
        return parameters(with_settings(study, hidden_size=number * heads), name)

    numbers = range(1, MOST // heads + 1)
    place = bisect.bisect_left(numbers, budget, key=count)
    near = numbers[max(place - 1, 0) : place + 1]
    return heads * min(near, key=lambda number: abs(count(number) - budget))


class Search:
    """The tries of a study and what is chosen by them; what is stored is not trained again.

    Args:
        folder: of the result files; None keeps runs in memory alone.
    """

    def __init__(self, study: Study, folder: Path | None, quick: bool = False) -> None:
        self.study, self.quick = study, quick
        self.store = Store(study.name, None if folder is None else folder / "graphs-search")
        self.tries = [(rate, dropout) for rate in RATES for dropout in DROPOUTS]
        self.tries = self.tries[:2] if quick else self.tries
        self._parts: tuple[int, Parts] | None = None
        self._widths: dict[str, int] = {}

    # ------------------------------------------------------------------ runs

    def searched_on(self, repeat: int) -> int:
        """The repeat whose training and validation parts choose the settings of this one."""
        return SEED if self.study.folds is None else repeat

    def settings(self, name: str, dropout: float, repeat: int) -> dict[str, Any]:
        """All that decides a run but its learning rate and its seed."""
        if name not in self._widths:
            self._widths[name] = width(self.study, name)
        changed = with_settings(self.study, hidden_size=self._widths[name], dropout=dropout)
        training = self.study.training | ({"epochs": 1} if self.quick else {})
        training = {key: value for key, value in training.items() if key != "learning_rate"}
        plain = {"network": changed.settings(name), "training": training, "parts": repeat}
        return json.loads(json.dumps(plain))

    def run(self, name: str, rate: float, dropout: float, repeat: int, seed: int) -> dict[str, Any]:
        """A run, from the store where it is there. Tested unless its seed is that of the search."""
        settings = self.settings(name, dropout, repeat)
        found = self.store.find(settings, rate, (seed, seed))
        if found is None:
            changed = with_settings(self.study, hidden_size=self._widths[name], dropout=dropout)
            training = settings["training"] | {"learning_rate": rate}
            measure = None if seed == SEED else self.study.measure
            parts = self.parts(repeat)
            try:
                result = train(lambda: changed.build(name), seed, parts, training, measure)
            except ValueError as error:
                if measure is not None or "diverged" not in str(error):
                    raise
                result = {"diverged": str(error), "curve": [], "seconds": 0.0}  # a try like others
            row = f"{name} try" if seed == SEED else name
            self.store.add(row, settings, rate, (seed, seed), result)
            found = self.store.find(settings, rate, (seed, seed))
            told = found.get("tests", {"validation loss": loss(found)})
            print(
                f"{row} rate {rate:g} dropout {dropout:g} parts {repeat}: {json.dumps(told)} "
                f"{found['seconds']:.0f} s",
                flush=True,
            )
        return found

    def parts(self, repeat: int) -> Parts:
        if self._parts is None or self._parts[0] != repeat:
            self._parts = repeat, self.study.parts(repeat, self.quick)
        return self._parts[1]

    def all(self, names: Sequence[str], repeats: Sequence[int]) -> None:
        """Every try of every body, in turns over bodies, then the chosen ones with the seeds of the
        table.
        """
        for repeat in repeats:
            where = self.searched_on(repeat)
            for rate, dropout in self.tries:
                for name in names:
                    self.run(name, rate, dropout, where, SEED)
            for name in names:
                chosen = self.chosen(name, repeat)
                assert chosen is not None, "all of its tries are there"
                self.run(name, *chosen, repeat, repeat)

    # ------------------------------------------------------------------ what came out

    def chosen(self, name: str, repeat: int) -> tuple[float, float] | None:
        """Learning rate and dropout with the lowest validation loss; None unless all are tried."""
        where, found = self.searched_on(repeat), {}
        for rate, dropout in self.tries:
            settings = self.settings(name, dropout, where)
            one = self.store.find(settings, rate, (SEED, SEED))
            if one is None:
                return None
            found[rate, dropout] = loss(one)
        return min(found, key=lambda one: found[one])

    def tested(self, name: str) -> dict[int, tuple[tuple[float, float], dict[str, Any]]]:
        """By repeat what was chosen, and its run."""
        out = {}
        seeds = {one["seed_weights"] for one in self.store.content["runs"].values()} - {SEED}
        for repeat in sorted(seeds):
            chosen = self.chosen(name, repeat)
            if chosen is not None:
                rate, dropout = chosen
                settings = self.settings(name, dropout, repeat)
                one = self.store.find(settings, rate, (repeat, repeat))
                if one is not None:
                    out[repeat] = chosen, one
        return out


def loss(run: dict[str, Any]) -> float:
    """The lowest validation loss of a run, infinite where it diverged."""
    losses = [value for _, value in run["curve"] if math.isfinite(value)]
    return min(losses, default=math.inf)


def table(search: Search) -> str:
    """A row for each body: what was chosen, and how it tests."""
    study, names = search.study, [name for name in BODIES if search.tested(name)]
    found = {name: search.tested(name) for name in names}
    if not names:
        return "no body is searched and tested yet"
    tests = list(next(iter(found[names[0]].values()))[1]["tests"])
    shown = [(test, column) for test in tests for column in study.columns]
    header = ["", "width", "parameters", "learning rate", "dropout", "CPU s a run", "repeats"]
    rows = []
    for name in names:
        chosen, runs = zip(*found[name].values(), strict=True)
        cells = []
        for test, column in shown:
            values = [one["tests"][test][column] for one in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        several = (
            ", ".join(dict.fromkeys(f"{one:g}" for one in part))
            for part in zip(*chosen, strict=True)
        )
        network = search.store.content["settings"][runs[0]["settings"]]["network"]
        told = [NAMES[name], str(network["hidden_size"]), f"{runs[0]['parameters']:,}", *several]
        seconds = f"{statistics.fmean(one['seconds'] for one in runs):.0f}"
        rows.append([*told, seconds, str(len(runs)), *cells])
    columns = [f"{test}: {column}" for test, column in shown]
    text = report.table([*header, *columns], rows)
    tries = f"{len(search.tries)} tries a body, chosen by validation loss with seed {SEED}"
    return f"{text}\n\nmean ± standard deviation over repeats; {tries}"
