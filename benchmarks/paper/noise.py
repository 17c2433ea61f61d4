"""What a run's loss owes to the draw of its weights, and what to the order of its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.paper.claims import REMEDIES
from benchmarks.paper.runner import best, shown
from benchmarks.paper.statistics import Variances, holm, variance_ratio, variances
from benchmarks.paper.verdicts import DOES_NOT, HOLDS, NOT_MEASURED, UNDECIDED
from benchmarks.store import Store


@dataclass(frozen=True)
class Spread:
    """Of one row: its mean loss, the components, and the ratio of the draws' mean square to plain
    attention's (of remedies: to GIN's) with its p-value, corrected for all ratios.
    """

    row: str
    mean: float
    parts: Variances
    ratio: float
    p: float


def grid_of(store: Store, row: str) -> np.ndarray | None:
    """Lowest validation losses ``[draws, orders]`` of the largest square that is whole."""
    losses = {(one["seed_weights"], one["seed_data"]): best(one) for one in shown(store, row)}
    size = 0
    while all((i, j) in losses for i in range(size + 1) for j in range(size + 1)):
        size += 1
    if size < 2:
        return None
    return np.array([[losses[i, j] for j in range(size)] for i in range(size)])


def spreads(store: Store, rows: list[str]) -> list[Spread]:
    """Of every row that has two draws and two orders at least."""
    grids = {row: grid for row in rows if (grid := grid_of(store, row)) is not None}
    parts = {row: variances(grid) for row, grid in grids.items()}
    ratios = {}
    for row, one in parts.items():
        base = "gin" if row in REMEDIES else "sum"
        ratios[row] = (
            variance_ratio(one, parts[base])
            if base in parts and row != base
            else (math.nan, math.nan)
        )
    corrected = dict(zip(ratios, holm([p for _, p in ratios.values()]), strict=True))
    return [
        Spread(row, float(grids[row].mean()), parts[row], ratios[row][0], corrected[row])
        for row in parts
    ]


def verdict(found: list[Spread]) -> str:
    """Whether GIN's ratio is above 1, and a remedy's below 1, beyond chance."""
    by_row = {one.row: one for one in found}
    if not {"sum", "gin"} <= set(by_row):
        return NOT_MEASURED
    gin = by_row["gin"]
    if not gin.p < 0.05:
        return UNDECIDED
    if gin.ratio < 1:
        return DOES_NOT
    mended = any(one.p < 0.05 and one.ratio < 1 for one in found if one.row in REMEDIES)
    return HOLDS if mended else UNDECIDED
