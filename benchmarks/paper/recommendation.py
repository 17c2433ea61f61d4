"""What to take, from the stored runs: the box of docs/evidence.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.graphs import page
from benchmarks.paper import tables, verdicts
from benchmarks.paper.claims import CLAIMS
from benchmarks.paper.values import values_of

WHERE = {"proteins": "proteins", "plays": "plays", "arithmetic": "arithmetic problems"}


def text(folder: Path) -> str:
    """A line for each thing there is to choose."""
    lines = [operator(folder), *recipes(folder), *extras(folder), gamma(folder), threshold(folder)]
    lines += [*adapter(folder), graphs(folder)]
    return "\n".join(f"> - {line}" for line in lines)


def state(name: str, folder: Path) -> tuple[str, str]:
    """The verdict on a claim, and the scale it is of."""
    claim = CLAIMS[name]
    scale = tables.scale_of(claim, folder)
    return tables.verdict_of(claim, folder, scale), scale


def operator(folder: Path) -> str:
    if state("perplexity", folder) == (verdicts.HOLDS, "full"):
        return '**Operator** of a language model: GIN, `operator="gin"`.'
    return (
        '**Operator** of a language model: plain attention, `operator="sum"`. That GIN alone is '
        "ahead of it has not been shown at full scale."
    )


def recipes(folder: Path) -> list[str]:
    """What edges from the tokens before were found to be worth: a line an operator and scale."""
    lines = []
    for kind, what in (("recipe", "GIN"), ("chain", "plain attention")):
        found: dict[str, list[str]] = {}
        for where, words in WHERE.items():
            verdict, scale = state(f"{kind}-{where}", folder)
            if verdict == verdicts.HOLDS:
                found.setdefault(scale, []).append(words)
        for scale, texts in found.items():
            lines.append(
                f"**Relation** of {what}: with `relations=[gf.Chain(3)]`, edges from the three "
                "tokens before, it is ahead of plain attention without them, at equal parameters "
                f"and time, on {' and '.join(texts)} ({scale} scale)."
            )
    return lines


def extras(folder: Path) -> list[str]:
    """What helps GIN more than plain attention on both texts, at the largest scale that knows."""
    for scale in tables.SCALES:
        found = []
        for name in ("recipes-plays", "recipes-arithmetic"):
            judged = verdicts.judge(CLAIMS[name], lambda one, s=scale: values_of(one, folder, s))
            found.append({one.contrast.row for one in judged if one.outcome == 1})
        if both := sorted(found[0] & found[1]):
            names = "; ".join(tables.title(row, "screening").split(": ")[1] for row in both)
            return [
                f"**Extras** that help GIN more than plain attention on both texts: {names} "
                f"({scale} scale)."
            ]
    return []


def gamma(folder: Path) -> str:
    verdict, scale = state("gamma", folder)
    if verdict == verdicts.HOLDS:
        return f"**Gamma** of GIN: 0.5, `mlp_ratio=0.5`; larger ones are worse ({scale} scale)."
    return (
        "**Gamma** of GIN: 0.5, `mlp_ratio=0.5`, the default. That another one is worse or better "
        "has not been shown."
    )


def threshold(folder: Path) -> str:
    verdict, scale = state("threshold", folder)
    if verdict == verdicts.HOLDS:
        return (
            "**Threshold**: none is needed. Edges below 0.02 can be left out at no loss, "
            f"`threshold=0.02` ({scale} scale), where a sparse graph is wanted."
        )
    return "**Threshold**: none. That weak edges can be left out at no loss has not been shown."


def adapter(folder: Path) -> list[str]:
    lines = []
    if state("lora", folder)[0] != verdicts.HOLDS:
        lines.append("**Adapter**: LoRA, and not Sparse-GIN in the paper's form.")
    if state("second-form", folder)[0] == verdicts.HOLDS:
        lines.append(
            "**Adapter** of a model that is too small to look up what followed the last time: "
            'bottlenecks with chain and recurrence, `SparseGINConfig(form="bottlenecks")`.'
        )
    return lines


def graphs(folder: Path) -> str:
    """Where our plain attention stands beside the best of the peers."""
    found = page.standings(folder.parent)
    parts = [
        f"{words} {', '.join(found[way])}"
        for way, words in (
            ("ahead", "ahead of the best peer by more than the 95 % interval on"),
            ("level", "within it on"),
            ("behind", "behind on"),
        )
        if found[way]
    ]
    told = "; ".join(parts) or "not measured yet"
    return f"**Graphs**: plain attention is {told} ([runs](graph-benchmarks.md))."
