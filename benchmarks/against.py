"""Has the library become slower? The steps of ``attention``, ``aggregate``, ``decode`` and
``graph_cost``, this checkout against an earlier revision.

Two processes of one machine differ by more than what is looked for: by the addresses they were
given, and by what else ran meanwhile. So the package and the benchmarks of the earlier revision are
imported into the same process under other names, and a step of one is followed at once by the same
step of the other, the first of them in turns. What counts is the median of these pairs' ratios,
with a 95 % interval of the median from its order statistics. A row of a peer's code alone shows
what is left of the noise, and so does HEAD as the revision: tensors still lie in other places of
memory. Memory is what a step adds at its peak in a process of its own, the median of some of them
that take turns: equal code differs by some percent from one process to the next.

    python -m benchmarks.against REVISION                  some twenty minutes;
                                                           benchmarks/results/against-REVISION.json
    python -m benchmarks.against REVISION --only decode    the others' rows of this checkout are
                                                           kept
    python -m benchmarks.against REVISION --rows merged --processes 15
                                                           rows whose name holds this, closer;
                                                           writes no result file
    python -m benchmarks.against REVISION --quick          small sizes: does it run?
    python -m benchmarks.against REVISION --show           the table of the last results
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import transformers
from scipy.stats import binom

from benchmarks import measure, report

Row = tuple[str, str, dict[str, Any]]
"""Benchmark, name of the row, and what :func:`make` builds its step of."""

LENGTHS, NODES = (1024, 2048), (1_000, 10_000)
PEERS = ("SDPA", "plain attention layer", "PyG GINEConv", "PyG MessagePassing, as a user writes it")
"""Rows of others' code."""
GOAL = 1.05
PROCESSES = 3
"""Of each revision, for a row's memory."""


# ------------------------------------------------------------------ two trees in one process


def commit(revision: str) -> str:
    """The short name of a revision.

    Raises:
        SystemExit: git knows no such revision.
    """
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"],
        cwd=measure.ROOT,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise SystemExit(f"error: git knows no revision {revision!r}")
    return found.stdout.strip()


def checkout() -> str:
    """The short name of what is here, with ``-dirty`` where files have changed since."""
    changed = ["git", "diff", "--quiet", "HEAD", "--", "graphformer", "benchmarks/*.py"]
    return commit("HEAD") + "-dirty" * bool(subprocess.run(changed, cwd=measure.ROOT).returncode)


def export(revision: str, folder: Path) -> str:
    """Write the packages of a revision under other names; what is put behind these names."""
    ending = f"_{revision}"
    packed = subprocess.run(
        ["git", "archive", revision, "graphformer", "benchmarks/*.py"],
        cwd=measure.ROOT,
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    for package in ("graphformer", "benchmarks"):
        (folder / package).rename(folder / (package + ending))
    for path in folder.rglob("*.py"):
        text = path.read_text()
        path.write_text(re.sub(r"\b(graphformer|benchmarks)\b", rf"\1{ending}", text))
    return ending


def rows(only: list[str], quick: bool) -> Iterator[Row]:
    """What is compared."""
    if "attention" in only:
        sections = {
            "gin": ("plain attention layer", "GINAttention", "SumAttention"),
            "graph": ("SDPA", "stream", "stream, renormalized", "dense"),
            "graph-forward": ("stream", "dense"),
            "merged": ("merged_graph",),
            "pna": ("PNAAttention, threshold", "PNAAttention"),
            "growth": ("GINAttention, threshold",),
        }
        for section, names in sections.items():
            lengths = (64,) if quick else (512,) if section == "pna" else LENGTHS
            for length in lengths:
                for name in names:
                    case = {"section": section, "contender": name, "length": length}
                    yield "attention", f"{section}, {name}, {length}", case
    if "aggregate" in only:
        aggregate = importlib.import_module("benchmarks.aggregate")
        sizes = aggregate.QUICK if quick else aggregate.SIZES
        for name in (*aggregate.OURS, aggregate.USERS[0]):
            for reduce in ("sum", "max"):
                if name in aggregate.OURS or reduce == "sum":
                    case = {"contender": name, "reduce": reduce, "fresh": True, "sizes": sizes}
                    yield "aggregate", f"{reduce}, {name}", case
    if "decode" in only:
        for name in importlib.import_module("benchmarks.decode").VARIANTS:
            case = {"model": name, "prompt": 20 if quick else 1000, "tokens": 4 if quick else 32}
            yield "decode", name, case
    if "graph_cost" in only:
        for nodes in (200,) if quick else NODES:
            for name in ("sum", "gin", "pna", "PyG GINEConv"):
                yield "graph_cost", f"{name}, {nodes:,} nodes", {"contender": name, "nodes": nodes}


def make(ending: str, benchmark: str, case: dict[str, Any]) -> measure.Step:
    """The step of the tree whose packages have this ending."""
    module = importlib.import_module(f"benchmarks{ending}.{benchmark}")
    step: measure.Step
    if benchmark == "decode":
        model = module.make_models()[case["model"]]
        step = module.generating(model, module.prompt_of(case["prompt"]), case["tokens"], True)
    else:
        step = module.build(**case)
    return step


# ------------------------------------------------------------------ measuring


def pairs(
    steps: tuple[measure.Step, measure.Step], count: int, shortest: float
) -> list[tuple[float, float]]:
    """CPU seconds of both steps, next to each other, the first one in turns."""
    spent = [seconds(step, 1) for step in steps for _ in range(2)]
    times = max(1, round(shortest / max(spent[1], spent[3], 1e-6)))
    gc.collect()
    gc.freeze()
    found = []
    for turn in range(count):
        gc.collect()
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        both = {which: seconds(steps[which], times) for which in order}
        found.append((both[0], both[1]))
    gc.unfreeze()
    return found


def seconds(step: Callable[[], Any], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        step()
    return (time.process_time() - start) / times


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % or more of the median, whatever the distribution: order statistics."""
    ordered, count = sorted(ratios), len(ratios)
    cut = max(int(binom.ppf(0.025, count, 0.5)) - 1, 0)
    return ordered[cut], ordered[count - 1 - cut]


def run(
    revision: str, only: list[str], names: list[str], count: int, processes: int, quick: bool
) -> Iterator[dict[str, Any]]:
    """One dictionary a row."""
    with tempfile.TemporaryDirectory() as place:
        ending = export(revision, Path(place))
        sys.path.insert(0, place)
        for benchmark, name, case in rows(only, quick):
            if not any(one in name for one in names):
                continue
            steps = make(ending, benchmark, case), make("", benchmark, case)
            times = pairs(steps, count, 0 if quick else measure.SHORTEST)
            del steps
            row = {"benchmark": benchmark, "row": name, "seconds": times, "bytes": None}
            if not quick and benchmark != "decode":
                row["bytes"] = [
                    [memory(place, which, benchmark, case) for which in (ending, "")]
                    for _ in range(processes)
                ]
            print(f"{benchmark}, {name}: {statistics.median(ratios(row)):.3f}", flush=True)
            yield row
        sys.path.remove(place)


def memory(place: str, ending: str, benchmark: str, case: dict[str, Any]) -> int | None:
    argument = json.dumps([place, ending, benchmark, case])
    command = [sys.executable, "-m", "benchmarks.against", "HEAD", "--case", argument]
    answer: int | None = measure.child(command)["bytes"]
    return answer


def ratios(row: dict[str, Any]) -> list[float]:
    return [new / old for old, new in row["seconds"]]


# ------------------------------------------------------------------ showing results


def heavier_by(found: list[list[int | None]] | None) -> float | None:
    """The ratio of the medians, ``None`` where the system cannot tell or nothing was measured."""
    known = [(old, new) for old, new in found or [] if old and new]
    if not known:
        return None
    old, new = (statistics.median(side) for side in zip(*known, strict=True))
    return new / old


def show(content: dict[str, Any]) -> str:
    """Every row, and how many miss the goal."""
    lines, slower, heavier = [], [], []
    for row in content["rows"]:
        low, high = interval(ratios(row))
        more = heavier_by(row["bytes"])
        peer = any(name in row["row"] for name in PEERS)
        lines.append(
            [
                row["benchmark"],
                row["row"] + " (others' code)" * peer,
                measure.seconds(statistics.median(new for _, new in row["seconds"])),
                f"{statistics.median(ratios(row)):.3f} [{low:.3f}, {high:.3f}]",
                "-" if more is None else f"{more:.3f}",
            ]
        )
        if not peer:
            slower += [row["row"]] if statistics.median(ratios(row)) > GOAL else []
            heavier += [row["row"]] if more is not None and more > 1.01 else []
    head = ["benchmark", "row", "time", f"of {content['revision']} (95 %)", "memory"]
    goals = [
        [what, str(len(names)), measure.verdict(len(names), 0), "; ".join(names)]
        for what, names in (
            (f"rows above {GOAL:g} times the time", slower),
            ("rows above 1.01 times the memory", heavier),
        )
    ]
    return "\n\n".join(
        (report.table(head, lines), report.table(["goal: none", "found", "", "which"], goals))
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("attention", "aggregate", "decode", "graph_cost")
    parser.add_argument("revision")
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="rows whose name holds one")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="for a row's memory")
    parser.add_argument("--quick", action="store_true", help="small sizes; writes no result file")
    parser.add_argument("--show", action="store_true", help="the last results; measures nothing")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("pairs", "processes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: at least 1 is needed")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.case:
        place, ending, benchmark, case = json.loads(options.case)
        sys.path.insert(0, place)
        step = make(ending, benchmark, case)
        step()
        return measure.answer(step)
    revision = commit(options.revision)
    stem = f"against-{revision}"
    if options.show:
        return print(show(json.loads((report.RESULTS / f"{stem}.json").read_text())))
    content = {
        **report.environment(),
        "revision": revision,
        "checkout": checkout(),
        "settings": {
            "pairs": 3 if options.quick else options.pairs,
            "shortest": measure.SHORTEST,
            "processes": options.processes,
        },
    }
    unstored = options.quick or bool(options.rows)
    known = [name for _, name, _ in rows(options.only, options.quick)]
    if lost := [one for one in options.rows or () if not any(one in name for name in known)]:
        parser.error(f"--rows {lost[0]!r} is in the name of none: {'; '.join(known)}")
    content["rows"] = [] if unstored else kept(stem, content)
    count, some = content["settings"]["pairs"], options.rows or [""]
    for row in run(revision, options.only, some, count, options.processes, options.quick):
        same = (row["benchmark"], row["row"])
        others = [one for one in content["rows"] if (one["benchmark"], one["row"]) != same]
        content["rows"] = sorted([*others, row], key=lambda one: names.index(one["benchmark"]))
        if not unstored:
            report.save(stem, content)
    print()
    print(show(content))


def kept(stem: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier call on the same checkout and with the same settings, of which this one
    may measure only a part anew.
    """
    path = report.RESULTS / f"{stem}.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    same = all(before.get(name) == content[name] for name in ("checkout", "settings"))
    return before["rows"] if same else []


if __name__ == "__main__":
    main()
