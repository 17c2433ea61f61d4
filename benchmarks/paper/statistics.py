"""Paired comparisons over seeds: an interval by resampling, two tests, and Holm's correction for
many of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95
SMALL = 0.02
"""Nats: an effect below it needs :data:`MANY` seeds, and any other :data:`FEW`."""
FEW, MANY = 5, 10


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences.

    Attributes:
        mean: of ``row - base`` over the seeds that both have.
        low, high: 95 % interval, by resampling (BCa; scipy.stats.bootstrap). NaN of fewer than two.
        seeds: how many pairs.
        p: of the paired t test, two-sided; ``holm`` the same corrected for all comparisons that
            were made together.
        wilcoxon: of the signed-rank test, which cannot be below ``2 / 2**n``: of five pairs 0.0625.
        reach: half of Student's 95 % interval of the mean, which holds for few seeds too.
    """

    mean: float
    low: float
    high: float
    seeds: int
    p: float
    wilcoxon: float
    holm: float
    reach: float = math.nan

    @property
    def wanted(self) -> int:
        """Seeds that an effect of this size needs."""
        return MANY if abs(self.mean) < SMALL else FEW


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean by resampling; of equal values that value."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        return math.nan, math.nan
    if _equal(found):
        return float(found.mean()), float(found.mean())
    ends = stats.bootstrap(
        (found,),
        np.mean,
        confidence_level=LEVEL,
        method="BCa",
        rng=np.random.default_rng(0),  # the same numbers in every table
    ).confidence_interval
    return float(ends.low), float(ends.high)


def _equal(found: np.ndarray) -> bool:
    """Whether values differ by no more than their rounding."""
    return bool(np.ptp(found) <= 1e-12 * np.abs(found).max())


def paired(differences: Sequence[float]) -> Effect:
    """What paired differences say.

    Raises:
        ValueError: there are none.
    """
    found = np.asarray(differences, dtype=np.float64)
    if not len(found):
        raise ValueError("differences is empty: no seed has both runs")
    low, high = interval(found)
    p = wilcoxon = math.nan
    if len(found) > 1:
        if _equal(found):  # no spread: t is 0 / 0 or infinite
            p = 0.0 if found.any() else 1.0
        else:
            p = float(stats.ttest_1samp(found, 0.0).pvalue)
        wilcoxon = float(stats.wilcoxon(found).pvalue) if found.any() else 1.0
    reach = math.nan
    if len(found) > 1:
        spread = float(found.std(ddof=1)) / math.sqrt(len(found))
        reach = spread * float(stats.t.ppf((1 + LEVEL) / 2, len(found) - 1))
    return Effect(float(found.mean()), low, high, len(found), p, wilcoxon, p, reach)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for all of them together (Holm 1979): the k-th smallest of m times
    ``m - k + 1``, never below one before it. NaN stays NaN and counts for none.
    """
    order = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    corrected, least = [math.nan] * len(p), 0.0
    for rank, (value, place) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * value))
        corrected[place] = least
    return corrected


def together(effects: Sequence[Effect]) -> list[Effect]:
    """The effects of comparisons that are made together, with corrected p-values."""
    corrected = holm([one.p for one in effects])
    return [replace(one, holm=p) for one, p in zip(effects, corrected, strict=True)]


def outcome(effect: Effect, sign: int, margin: float = 0.0, seeds: int | None = None) -> int:
    """Whether an effect is decided: 1 as claimed, -1 the other way, 0 undecided.

    It is decided where there are enough seeds, the interval leaves out the border, and, with no
    margin, the corrected t test is below 0.05 as well. Where fewer than :data:`FEW` are enough,
    Student's interval must leave it out too: resampling says little of so few.

    Args:
        sign: -1 where ``row - base`` is claimed to be below 0, 1 above.
        margin: how much worse may still be called as good: the border is 0 moved by so much against
            the claim.
        seeds: how many are enough, see :class:`benchmarks.paper.claims.Contrast`.
    """
    if effect.seeds < (seeds or effect.wanted) or math.isnan(effect.low):
        return 0
    border = -sign * margin
    if margin == 0 and not effect.holm < 1 - LEVEL:
        return 0
    low, high = effect.low, effect.high
    if effect.seeds < FEW:
        low = min(low, effect.mean - effect.reach)
        high = max(high, effect.mean + effect.reach)
    near, far = (low, high) if sign > 0 else (-high, -low)
    border = border if sign > 0 else -border
    return 1 if near > border else (-1 if far < border else 0)


@dataclass(frozen=True)
class Variances:
    """What a grid of draws of weights and orders of data says: components of the variance of one
    run's loss, from a two-way analysis with one run a cell.

    Attributes:
        init, data: of the draw of the weights and of the order of the data; 0 where the estimate is
            negative.
        rest: of both together, which one run a cell cannot tell from noise.
        init_square: mean square of the draws of weights, with ``draws - 1`` degrees of freedom.
    """

    init: float
    data: float
    rest: float
    init_square: float
    draws: int


def variances(losses: np.ndarray) -> Variances:
    """Components of ``losses`` ``[draws of weights, orders of data]``.

    Raises:
        ValueError: fewer than two of either.
    """
    rows, columns = losses.shape
    if min(rows, columns) < 2:
        raise ValueError(f"losses {list(losses.shape)}: two draws and two orders at least")
    mean = losses.mean()
    by_row, by_column = losses.mean(1) - mean, losses.mean(0) - mean
    rest = losses - mean - by_row[:, None] - by_column[None]
    init_square = columns * float((by_row**2).sum()) / (rows - 1)
    data_square = rows * float((by_column**2).sum()) / (columns - 1)
    rest_square = float((rest**2).sum()) / ((rows - 1) * (columns - 1))
    return Variances(
        max(init_square - rest_square, 0.0) / columns,
        max(data_square - rest_square, 0.0) / rows,
        rest_square,
        init_square,
        rows,
    )


def variance_ratio(one: Variances, other: Variances) -> tuple[float, float]:
    """How many times the mean square of the draws of weights, and the p-value of the F test,
    two-sided.
    """
    if other.init_square == 0:
        return math.inf, 0.0
    ratio = one.init_square / other.init_square
    above = float(stats.f.sf(ratio, one.draws - 1, other.draws - 1))
    return ratio, min(1.0, 2 * min(above, 1 - above))
