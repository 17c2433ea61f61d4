"""What a study is made of: rows (variants of the model), scales, experiments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import report

FOLDER = report.RESULTS / "paper"
"""Where the runs are kept."""
GRID_SEED = 100
"""The seed that chooses learning rates; no run that is shown has it."""


@dataclass(frozen=True)
class Scale:
    """How large and how long.

    Attributes:
        data: sizes of the data set, see :mod:`benchmarks.paper.data`.
        hidden_size, intermediate_size, layers, heads: of the standard transformer, whose number of
            parameters every row has.
        rounds: evaluations, with ``steps`` optimizer steps before each; None: one pass over the
            data (an epoch).
        batch: sequences a step.
        warmup: steps in which the rate rises.
        schedule: ``"constant"`` or ``"cosine"`` (down to a tenth) after it.
        grid: learning rates of which each row's is chosen.
        longer: how many times the rounds the standard transformer has in the time of GIN with edges
            from the tokens before: that one's time a step at this scale, or a little more.
    """

    data: Mapping[str, int]
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    rounds: int
    steps: int | None
    batch: int
    warmup: int
    schedule: str
    grid: tuple[float, ...]
    longer: float
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0


@dataclass(frozen=True)
class Row:
    """A variant of the model.

    Attributes:
        what: for tables.
        config: fields of :class:`graphformer.GraphformerConfig`, with ``operator``; or a function
            of the scale that gives them.
        share: of the parameters of the standard transformer; 1 but where fewer are the question.
        start: how initial weights are changed, a name of :data:`benchmarks.paper.starts.STARTS`.
        rate_of: the row whose learning rate it takes; None: its own.
        longer: whether it is trained for the scale's ``longer`` times the rounds: has the time of
            a slower row.
    """

    what: str
    config: Mapping[str, Any] | Callable[[Scale], Mapping[str, Any]]
    share: float = 1.0
    start: str | None = None
    rate_of: str | None = None
    longer: bool = False

    def fields(self, scale: Scale) -> dict[str, Any]:
        """Fields of the config at this scale."""
        return dict(self.config(scale) if callable(self.config) else self.config)

    def trained(self, scale: Scale) -> Scale:
        """The scale with this row's rounds."""
        times = scale.longer if self.longer else 1
        return replace(scale, rounds=round(scale.rounds * times))


@dataclass(frozen=True)
class Experiment:
    """Rows that are trained alike, at several scales; claims read them.

    Attributes:
        source: the name of the data, in :data:`benchmarks.paper.data.SOURCES`.
        crossed: whether seeds of weights and of data are crossed, ``K * K`` runs a row, and not one
            seed for both.
        rates_of_rows: whether ``rate_of`` of a row is ignored: finals choose the rate for each.
    """

    name: str
    title: str
    source: str
    rows: Mapping[str, Row]
    scales: Mapping[str, Scale]
    crossed: bool = False
    rates_of_rows: bool = field(default=False)

    def seeds(self, count: int) -> list[tuple[int, int]]:
        """Seeds of the weights and of the data."""
        if self.crossed:
            return list(itertools.product(range(count), repeat=2))
        return [(seed, seed) for seed in range(count)]

    def rate_row(self, name: str) -> str:
        """The row whose grid decides the rate of this one."""
        return name if self.rates_of_rows else self.rows[name].rate_of or name
