"""docs/evidence.md, its figures and the README's tables, from what is stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import language, report
from benchmarks.paper import noise, recommendation, tables, verdicts
from benchmarks.paper.claims import CLAIMS, Claim
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.models import standard
from benchmarks.paper.settings import Scale
from benchmarks.paper.values import file_of, values_of
from benchmarks.store import Store
from graphformer.models.language.twin import count_parameters

ROOT = report.RESULTS.parents[1]
PAGE, README = ROOT / "docs" / "evidence.md", ROOT / "README.md"
FEW_CONTRASTS = 3


def figure_of(claim: Claim, folder: Path) -> str | None:
    """The file name of a claim's figure; None where nothing is stored."""
    measured = state(claim, folder) != verdicts.NOT_MEASURED
    return f"evidence-{claim.name}.png" if claim.figure and measured else None


def state(claim: Claim, folder: Path) -> str:
    return tables.verdict_of(claim, folder, tables.scale_of(claim, folder))


def small(claim: Claim, folder: Path) -> bool:
    """Whether a claim has runs, and these at the small scale alone."""
    own = claim.experiment in EXPERIMENTS
    return own and tables.scale_of(claim, folder) == "small"


def measured(claim: Claim, folder: Path) -> str:
    """What was measured, in a line."""
    if state(claim, folder) == verdicts.NOT_MEASURED:
        return verdicts.NOT_MEASURED
    scale = tables.scale_of(claim, folder)
    text = found_at(claim, folder, scale)
    if claim.experiment in EXPERIMENTS:
        text += f" ({scale} scale)"
    for other in others(claim, folder):
        text += f"; {at(other)}: {found_at(claim, folder, other)}"
    return text


def found_at(claim: Claim, folder: Path, scale: str) -> str:
    """The comparisons of a claim at a scale, or how many of them are which way."""
    if claim.rule == "variances":
        spreads = noise.spreads(Store(file_of(claim.experiment, scale), folder), claim.rows)
        parts = [
            f"{one.row} {one.parts.init**0.5:.4f}" for one in spreads if one.row in ("sum", "gin")
        ]
        return f"standard deviation from the draw, nats: {', '.join(parts)}"
    judged = verdicts.judge(claim, lambda name: values_of(name, folder, scale))
    judged = [one for one in judged if one.effect is not None]
    if len(judged) > FEW_CONTRASTS:
        counts = [sum(one.outcome == way for one in judged) for way in (1, -1, 0)]
        return (
            f"of {len(claim.contrasts)} comparisons {counts[0]} as claimed, {counts[1]} the other "
            f"way, {counts[2]} undecided, {len(claim.contrasts) - len(judged)} not measured"
        )
    parts = []
    for one in judged:
        contrast, effect = one.contrast, one.effect
        assert effect is not None
        what = {"validation": "validation", "test": "test", "best_round": "best epoch"}.get(
            contrast.metric, contrast.metric
        )
        where = (contrast.experiment or "").removeprefix("finetune-")
        what = f"{where}, {what}" if where else what
        against = f" minus {contrast.base}" if contrast.base else ""
        if contrast.less:
            against += f", less {' minus '.join(contrast.less)}"
        parts.append(
            f"{contrast.row}{against}, {what}: {tables.effect_text(one)}, {effect.seeds} seeds"
        )
    missing = len(claim.contrasts) - len(judged)
    if missing:
        parts.append(f"{missing} of {len(claim.contrasts)} comparisons not measured")
    return "; ".join(parts)


def claims_table(folder: Path) -> str:
    """One row a claim."""
    lines = []
    for claim in CLAIMS.values():
        figure = figure_of(claim, folder)
        command = claim.command + (" --scale small" if small(claim, folder) else "")
        lines.append(
            [
                f"{claim.words} ({claim.where})",
                measured(claim, folder),
                f"**{state(claim, folder)}**{', small scale' if small(claim, folder) else ''}",
                f"[figure]({figure})" if figure else "",
                f"`{command}`" if command.startswith("python") else command,
            ]
        )
    return report.table(["claim", "what we measured", "verdict", "figure", "command"], lines)


def scales_table() -> str:
    """How large the runs of each scale are."""
    lines = []
    for experiment in ("proteins", "screening", "noise"):
        for name in tables.SCALES:
            scale = EXPERIMENTS[experiment].scales[name]
            lines.append([EXPERIMENTS[experiment].title, name, *_size(scale)])
    header = ["data", "scale", "parameters without embedding", "layers, width", "steps", "batch"]
    return report.table([*header, "learning rates"], lines)


def _size(scale: Scale) -> list[str]:
    vocabulary = 1
    count = count_parameters(standard(scale, vocabulary, 8)) - scale.hidden_size * vocabulary
    steps = f"{scale.rounds} epochs" if scale.steps is None else str(scale.rounds * scale.steps)
    grid = ", ".join(f"{rate:g}" for rate in scale.grid)
    shape = f"{scale.layers}, {scale.hidden_size}"
    return [f"{count:,}", shape, steps, str(scale.batch), grid]


def sections(folder: Path) -> str:
    """Tables and figure of every claim that has runs."""
    parts = []
    for claim in CLAIMS.values():
        if state(claim, folder) == verdicts.NOT_MEASURED:
            continue
        lines = [
            f"### {claim.name}",
            tables.of_claim(claim, folder, tables.scale_of(claim, folder)),
        ]
        for other in others(claim, folder):
            store = Store(file_of(claim.experiment, other), folder)
            begun = f"{at(other)}:"
            lines += [begun[0].upper() + begun[1:], tables.of_store(claim, store)]
        if claim.note:
            lines.append(claim.note.format(**_facts(claim, folder)))
        if figure := figure_of(claim, folder):
            lines.append(f"![{claim.words}]({figure})")
        parts += lines
    return "\n\n".join(parts)


def others(claim: Claim, folder: Path) -> list[str]:
    """The other scales at which at least a part of the claim is measured."""
    if claim.experiment not in EXPERIMENTS:
        return []
    known = [one for one in tables.SCALES if one != tables.scale_of(claim, folder)]
    return [one for one in known if tables.verdict_of(claim, folder, one) != verdicts.NOT_MEASURED]


def at(scale: str) -> str:
    """Of a scale that is not the one that counts: a larger one is not complete."""
    return "so far at full scale" if scale == "full" else f"at {scale} scale"


def _facts(claim: Claim, folder: Path) -> dict[str, Any]:
    """What is stored about the data of a claim."""
    if claim.experiment not in EXPERIMENTS:
        return {}
    store = Store(file_of(claim.experiment, tables.scale_of(claim, folder)), folder)
    latest = next(store.content["latest"][row] for row in claim.rows if store.runs(row))
    return store.content["settings"][latest]["facts"]


LANGUAGE = {
    "sum": "sum: the standard transformer",
    "gin": "gin (gamma 0.5, sharpening, no value and output projection)",
    "pna": "pna (edges above 0.1)",
    "gin+chain": "gin and edges from the three tokens before, `relations=[gf.Chain(3)]`",
    "sum+chain": "sum and the same edges",
}


def headline(folder: Path) -> str:
    """The README's table, of ``benchmarks.language``."""
    runs: dict[str, Any] = json.loads((folder.parent / "language.json").read_text())["runs"]
    table = language.summary(runs)
    for name, what in LANGUAGE.items():
        table = re.sub(
            rf"^\| {re.escape(name)}( \(.*?\))? \|", f"| {what} |", table, flags=re.MULTILINE
        )
    return table


def verdict_line(folder: Path) -> str:
    """The README's sentence about the claims."""
    found = [state(claim, folder) for claim in CLAIMS.values()]
    words = {verdicts.HOLDS: "hold", verdicts.DOES_NOT: "do not"}
    kinds = (verdicts.HOLDS, verdicts.DOES_NOT, verdicts.UNDECIDED, verdicts.NOT_MEASURED)
    counts = ", ".join(f"{found.count(kind)} {words.get(kind, kind)}" for kind in kinds)
    return (
        f"Of {len(found)} claims, the paper's and those about recipes here: {counts}; "
        f"{sum(small(claim, folder) for claim in CLAIMS.values())} of them have runs of a small "
        "scale alone. "
        "[docs/evidence.md](docs/evidence.md) has each with its runs."
    )


def pages(folder: Path) -> dict[Path, str]:
    """The pages as they should be."""
    page = {
        "recommendation": recommendation.text(folder),
        "claims": claims_table(folder),
        "scales": scales_table(),
        "runs": sections(folder),
    }
    readme = {"language": headline(folder), "verdicts": verdict_line(folder)}
    return {
        path: report.filled(path.read_text(), "paper", texts)
        for path, texts in ((PAGE, page), (README, readme))
    }


def write(folder: Path) -> list[Path]:
    """Write pages and figures; their paths."""
    from benchmarks.paper import figures  # matplotlib

    written = []
    for path, text in pages(folder).items():
        path.write_text(text)
        written.append(path)
    for claim in CLAIMS.values():
        if name := figure_of(claim, folder):
            figures.draw(claim, folder, tables.scale_of(claim, folder), PAGE.parent / name)
            written.append(PAGE.parent / name)
    return written
