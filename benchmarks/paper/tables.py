"""Claims and runs as tables."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from benchmarks import report
from benchmarks.finetune.methods import METHODS
from benchmarks.paper import noise, verdicts
from benchmarks.paper.claims import CLAIMS, Claim
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.runner import shown
from benchmarks.paper.statistics import Effect, interval
from benchmarks.paper.values import METRICS, Values, file_of, values_of
from benchmarks.paper.values import of_store as store_values
from benchmarks.paper.verdicts import Found
from benchmarks.store import Store

SCALES = ("full", "small")


def title(row: str, experiment: str) -> str:
    if experiment not in EXPERIMENTS:
        return METHODS[row]
    what = EXPERIMENTS[experiment].rows[row].what
    return f"{row.split('+')[0]}: {what}" if "+" in row else what


def with_interval(mean: float, low: float, high: float, digits: int = 4, sign: bool = True) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    if math.isnan(low):
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def p_value(p: float) -> str:
    return "-" if math.isnan(p) else (f"{p:.3f}" if p >= 0.001 else f"{p:.0e}")


def effect_text(found: Found) -> str:
    if found.effect is None:
        return verdicts.NOT_MEASURED
    if found.percent is not None:
        return with_interval(*found.percent, digits=1) + " %"
    one = found.effect
    return with_interval(one.mean, one.low, one.high)


def of_rows(claim: Claim, values: Values) -> str:
    """Mean and interval of each row, with what a step costs."""
    metrics = list(dict.fromkeys(one.metric for one in claim.contrasts))
    lines = []
    for row in claim.rows:
        if row not in values:
            continue
        cells = []
        for metric in metrics:
            found = list(values[row].get(metric, {}).values())
            digits = 1 if metric == "best_round" else 4
            cells.append(
                with_interval(statistics.fmean(found), *interval(found), digits, sign=False)
                if found
                else "-"
            )
        cpu = list(values[row].get("cpu", {}).values())
        lines.append(
            [
                title(row, claim.experiment),
                str(max(len(one) for one in values[row].values())),
                *cells,
                f"{statistics.fmean(cpu) * 1e3:.0f} ms" if cpu else "-",
            ]
        )
    header = ["row", "seeds", *(METRICS[one] for one in metrics), "CPU a step"]
    return report.table(header, lines)


def of_contrasts(claim: Claim, found: list[Found]) -> str:
    """The comparisons: difference, interval, p-values, and whether it is as claimed."""
    words = {1: "as claimed", -1: "the other way", 0: verdicts.UNDECIDED}
    lines = []
    for one in found:
        contrast, effect = one.contrast, one.effect
        experiment = contrast.experiment or claim.experiment
        what = title(contrast.row, experiment)
        if contrast.less:
            what += f": gain of {contrast.base} less gain of {contrast.less[1]}"
        elif contrast.base:
            what += f" minus {title(contrast.base, experiment)}"
        tail = ["0", "-", "-", verdicts.NOT_MEASURED]
        if isinstance(effect, Effect):
            wanted = contrast.seeds or effect.wanted
            state = words[one.outcome]
            if effect.seeds < wanted:
                state = f"{verdicts.UNDECIDED}: {wanted} seeds are wanted"
            tail = [str(effect.seeds), p_value(effect.holm), p_value(effect.wilcoxon), state]
        if contrast.experiment:
            what += f" ({contrast.experiment.removeprefix('finetune-')})"
        metric = METRICS[contrast.metric]
        lines.append([what, metric, effect_text(one), *tail])
    header = ["comparison", "of", "difference (95 %)", "seeds", "p (t, Holm)", "p (Wilcoxon)", ""]
    return report.table(header, lines)


def of_noise(store: Store, rows: list[str]) -> str:
    lines = []
    for one in noise.spreads(store, rows):
        parts = one.parts
        base = "GIN" if one.row in noise.REMEDIES else "plain"
        ratio = "-" if math.isnan(one.ratio) else f"{one.ratio:.2f} of {base} ({p_value(one.p)})"
        lines.append(
            [
                title(one.row, "noise"),
                f"{parts.draws} x {parts.draws}",
                f"{one.mean:.4f}",
                *(f"{value**0.5:.4f}" for value in (parts.init, parts.data, parts.rest)),
                ratio,
            ]
        )
    header = ["row", "runs", "mean loss", "sd of the draw", "sd of the order", "sd of both"]
    header += ["mean square of the draws (p, Holm)"]
    return report.table(header, lines)


def of_grid(store: Store, rows: list[str], grid: tuple[float, ...]) -> str:
    """The chosen rates; those at an end of the grid are named."""
    told = []
    for row in rows:
        runs = shown(store, row)
        if runs:
            rate = runs[0]["rate"]
            edge = " (edge of the grid)" if rate in (min(grid), max(grid)) else ""
            told.append(f"{row} {rate:g}{edge}")
    return "learning rates: " + ", ".join(told)


def of_store(claim: Claim, store: Store) -> str:
    """The tables of a claim from one store, which need not lie on the disk."""
    if claim.rule == "variances":
        return of_noise(store, claim.rows)
    values = store_values(claim.experiment, store)
    found = verdicts.judge(claim, lambda _: values)
    return f"{of_rows(claim, values)}\n\n{of_contrasts(claim, found)}"


def of_claim(claim: Claim, folder: Path, scale: str) -> str:
    """The tables of what is stored of a claim at a scale."""
    state = f"{claim.words} ({claim.where}): {verdict_of(claim, folder, scale)}"
    if state.endswith(verdicts.NOT_MEASURED):
        return f"{state}\n\n    {claim.command}"
    parts = [state]
    if claim.experiment in EXPERIMENTS:
        experiment = EXPERIMENTS[claim.experiment]
        store = Store(file_of(claim.experiment, scale), folder)
        parts.append(of_store(claim, store))
        parts.append(of_grid(store, claim.rows, experiment.scales[scale].grid))
    else:
        found = verdicts.judge(claim, lambda name: values_of(name, folder, scale))
        parts.append(of_contrasts(claim, found))
    return "\n\n".join(parts)


def verdict_of(claim: Claim, folder: Path, scale: str) -> str:
    if claim.rule == "variances":
        store = Store(file_of(claim.experiment, scale), folder)
        return noise.verdict(noise.spreads(store, claim.rows))
    return verdicts.verdict(
        claim, verdicts.judge(claim, lambda name: values_of(name, folder, scale))
    )


def complete(claim: Claim, folder: Path, scale: str) -> bool:
    """Whether all that a claim compares is measured at a scale."""
    if claim.rule == "variances":
        return verdict_of(claim, folder, scale) != verdicts.NOT_MEASURED
    found = verdicts.judge(claim, lambda name: values_of(name, folder, scale))
    return all(one.effect is not None for one in found)


def scale_of(claim: Claim, folder: Path) -> str:
    """The largest scale at which all of a claim is measured, or else the largest that has runs of
    it; ``"full"`` where none has.
    """
    measured = [
        scale for scale in SCALES if verdict_of(claim, folder, scale) != verdicts.NOT_MEASURED
    ]
    whole = [scale for scale in measured if complete(claim, folder, scale)]
    return next(iter([*whole, *measured]), SCALES[0])


def listing(folder: Path) -> str:
    lines = []
    for claim in CLAIMS.values():
        scale = scale_of(claim, folder)
        state = verdict_of(claim, folder, scale)
        own = claim.experiment in EXPERIMENTS and state != verdicts.NOT_MEASURED
        lines.append(
            [claim.name, claim.where, claim.words, f"{state}, {scale} scale" if own else state]
        )
    return report.table(["claim", "where", "words", "stored"], lines)
