"""All runs of an experiment: first the grid of learning rates, then the seeds, in turns over the
rows, so that what is stored at any time is a fair comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.paper import train
from benchmarks.paper.data import Texts
from benchmarks.paper.models import config_of, plain_config
from benchmarks.paper.settings import GRID_SEED, Experiment, Row, Scale
from benchmarks.paper.statistics import FEW, SMALL, paired
from benchmarks.store import Store


class Runner:
    """Trains what is not stored yet.

    Args:
        experiment, scale, texts: what, how large, and on what.
        told: where a line for each run goes.
    """

    def __init__(
        self,
        experiment: Experiment,
        scale: Scale,
        texts: Texts,
        store: Store,
        told: Callable[[str], None] = print,
    ):
        self.experiment, self.scale, self.texts = experiment, scale, texts
        self.store, self.told = store, told
        self.configs = {
            name: config_of(row, scale, texts.vocab_size, texts.longest)
            for name, row in experiment.rows.items()
        }

    def settings(self, name: str) -> dict[str, Any]:
        """Everything that decides a run but its rate and seeds."""
        row: Row = self.experiment.rows[name]
        trained = asdict(row.trained(self.scale))
        scale = {key: v for key, v in trained.items() if key not in ("grid", "longer")}
        plain = {
            "config": plain_config(self.configs[name]),
            "share": row.share,
            "start": row.start,
            "source": self.experiment.source,
            "facts": dict(self.texts.facts),
            "scale": scale,
        }
        return _plain(plain)

    def one(self, name: str, rate: float, seeds: tuple[int, int]) -> dict[str, Any]:
        """A run, from the store where it is there."""
        settings = self.settings(name)
        found = self.store.find(settings, rate, seeds)
        if found is None:
            began = time.perf_counter()
            row = self.experiment.rows[name]
            scale = row.trained(self.scale)
            result = train.run(self.configs[name], self.texts, scale, rate, seeds, row.start)
            result["seconds"] = round(time.perf_counter() - began, 1)
            self.store.add(name, settings, rate, seeds, result)
            found = self.store.find(settings, rate, seeds)
            self.told(
                f"{self.experiment.name} {name} rate {rate:g} seeds {seeds[0]} {seeds[1]}: "
                f"{best(found):.4f} in {result['seconds']:.0f} s"
            )
        return found

    def rate(self, name: str) -> float:
        """The rate of the grid with the lowest validation loss of the seed that is for it."""
        row, seeds = self.experiment.rate_row(name), (GRID_SEED, GRID_SEED)
        return min(self.scale.grid, key=lambda rate: best(self.one(row, rate, seeds)))

    def grid(self, names: Sequence[str]) -> None:
        """The runs that choose rates, in turns over the rows."""
        rows = list(dict.fromkeys(map(self.experiment.rate_row, names)))
        for rate in self.scale.grid:
            for row in rows:
                self.one(row, rate, (GRID_SEED, GRID_SEED))

    def all(self, names: Sequence[str], count: int) -> None:
        """Every seed of every row."""
        self.grid(names)
        rates = {name: self.rate(name) for name in names}
        for seeds in self.experiment.seeds(count):
            for name in names:
                self.one(name, rates[name], seeds)

    def chosen(self, name: str) -> list[dict[str, Any]]:
        """The stored runs of a row at its chosen rate, without those of the grid."""
        return shown(self.store, name)


def best(run: dict[str, Any]) -> float:
    """The lowest validation loss of a run."""
    return min(point["validation"] for point in run["curve"])


def shown(store: Store, name: str) -> list[dict[str, Any]]:
    """The stored runs of a row that stand for it, by seeds: all but those that chose a rate, at the
    rate that most of them have.
    """
    runs = [one for one in store.runs(name) if one["seed_weights"] != GRID_SEED]
    if not runs:
        return []
    rates = [one["rate"] for one in runs]
    most = max(dict.fromkeys(rates), key=rates.count)
    return sorted(
        (one for one in runs if one["rate"] == most),
        key=lambda one: (one["seed_weights"], one["seed_data"]),
    )


def too_few(values: dict[str, dict[int, float]], base: str) -> list[str]:
    """What needs more seeds: a line a row whose difference to the base has fewer than an effect of
    its size asks for.
    """
    lines = []
    for name, found in values.items():
        both = sorted(set(found) & set(values.get(base, {})))
        if name == base or not both:
            continue
        effect = paired([found[seed] - values[base][seed] for seed in both])
        if effect.seeds < effect.wanted:
            size = f"below {SMALL}, " if effect.wanted > FEW else ""
            lines.append(
                f"{name} minus {base} is {effect.mean:+.4f}, {size}and has {effect.seeds} seeds: "
                f"--seeds {effect.wanted} before it says anything"
            )
    return lines


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists, keys are texts."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
