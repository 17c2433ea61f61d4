"""From stored runs to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.paper import statistics
from benchmarks.paper.claims import Claim, Contrast
from benchmarks.paper.statistics import Effect
from benchmarks.paper.values import Values

NOT_MEASURED = "not measured yet"
HOLDS, DOES_NOT, UNDECIDED = "holds", "does not", "undecided"


@dataclass(frozen=True)
class Found:
    """What the runs say of one contrast.

    Attributes:
        effect: of the differences, None where no seed has all rows.
        percent: the same in percent of the base's mean, where the contrast asks for it.
        outcome: 1 as claimed, -1 the other way, 0 undecided.
    """

    contrast: Contrast
    effect: Effect | None
    percent: tuple[float, float, float] | None
    outcome: int


def differences(contrast: Contrast, values: Values) -> tuple[list[float], list[float]]:
    """The paired differences by seed, and the base's values of the same seeds."""

    def of(row: str) -> Mapping[int, float]:
        return values.get(row, {}).get(contrast.metric, {})

    seeds = sorted(set.intersection(*(set(of(row)) for row in contrast.rows)))
    found, base = [], []
    for seed in seeds:
        start = of(contrast.base)[seed] if contrast.base else 0.0
        difference = of(contrast.row)[seed] - start
        if contrast.less:
            with_extra, without = (of(row)[seed] for row in contrast.less)
            difference -= with_extra - without
        found.append(difference)
        base.append(start)
    return found, base


def judge(claim: Claim, values_of: Callable[[str], Values]) -> list[Found]:
    """Every contrast, corrected for all of the claim together.

    Args:
        values_of: the values of an experiment by its name.
    """
    pairs = [
        differences(one, values_of(one.experiment or claim.experiment)) for one in claim.contrasts
    ]
    effects = iter(statistics.together([statistics.paired(d) for d, _ in pairs if d]))
    found = []
    for contrast, (difference, base) in zip(claim.contrasts, pairs, strict=True):
        if not difference:
            found.append(Found(contrast, None, None, 0))
            continue
        effect, percent = next(effects), None
        if contrast.relative:
            mean = sum(base) / len(base)
            percent = tuple(100 * one / abs(mean) for one in (effect.mean, effect.low, effect.high))
        outcome = statistics.outcome(effect, contrast.sign, contrast.margin, contrast.seeds)
        found.append(Found(contrast, effect, percent, outcome))
    return found


def verdict(claim: Claim, found: list[Found]) -> str:
    """Holds, does not, undecided, or not measured yet."""
    if not any(one.effect for one in found):
        return NOT_MEASURED
    outcomes = [one.outcome for one in found]
    if claim.rule == "any":
        if 1 in outcomes:
            return HOLDS
        return DOES_NOT if all(one == -1 for one in outcomes) else UNDECIDED
    may_fail = 1 if claim.rule == "all but one" else 0
    if outcomes.count(-1) > may_fail:
        return DOES_NOT
    return HOLDS if outcomes.count(1) >= len(outcomes) - may_fail else UNDECIDED
