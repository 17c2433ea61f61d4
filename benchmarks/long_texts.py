"""Methods whose time does not grow as the square of the length, beside plain attention.

    python -m benchmarks.long_texts            the table of docs/methods.md, into results/
    python -m benchmarks.long_texts --only regions    rows with that word, beside the stored others
    python -m benchmarks.long_texts --quick    small sizes: does it run? Writes no result

A causal layer on tokens of width 256 with 4 heads, forward and backward, CPU time, one thread, the
least of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import graphformer as gf
from benchmarks import measure, report

TAU = 0.02
LENGTHS = (4096, 16384)


def heads(length: int) -> dict[str, gf.Head | None]:
    """About sqrt(n) blocks and clusters."""
    root = max(4, 2 ** round(torch.tensor(float(length)).log2().item() / 2))
    return {
        "plain attention": None,
        "window of 128": gf.Head(candidates={"name": "window", "size": 128}),
        "clusters, about sqrt(n)": gf.Head(candidates={"name": "clusters", "num_clusters": root}),
        "blocks of about sqrt(n)": gf.Head(candidates={"name": "blocks", "sizes": root}),
        "one query a head, by a scan": gf.Head(score="learned_query"),
        "decay without softmax": gf.Head(score="decay", normalize="identity"),
        "8 regions of 32, a window of 32": gf.Head(
            normalize={"name": "regions", "window": 32, "regions": 8, "size": 32}
        ),
        "plain, weights above 0.02": gf.Head(sparsify=gf.Threshold(TAU)),
        "clusters, weights above 0.02": gf.Head(
            candidates={"name": "clusters", "num_clusters": root}, sparsify=gf.Threshold(TAU)
        ),
        "blocks, weights above 0.02": gf.Head(
            candidates={"name": "blocks", "sizes": root}, sparsify=gf.Threshold(TAU)
        ),
    }


def step(head: gf.Head | None, length: int) -> measure.Step:
    torch.manual_seed(0)
    given = {} if head is None else {"head": head}
    layer = gf.nn.SumAttention(256, 4, **given)
    x = torch.randn(1, length, 256, requires_grad=True)
    return lambda: layer(x).square().sum().backward()


def run(lengths: tuple[int, ...], rounds: int, only: str = "") -> dict[str, Any]:
    runs = []
    for length in lengths:
        wanted = {name: head for name, head in heads(length).items() if only in name}
        steps = {name: step(head, length) for name, head in wanted.items()}
        least = {name: min(one) for name, one in measure.cpu_times(steps, rounds).items()}
        runs.append({"length": length, "seconds": least})
        print(length, least, flush=True)
    settings = {"width": 256, "heads": 4, "rounds": rounds, "seed": 0}
    return {"environment": report.environment(), "settings": settings, "runs": runs}


def beside_stored(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The stored rows and these, which say where they ran."""
    stored: dict[str, Any] = json.loads((folder / "long_texts.json").read_text())
    for old, new in zip(stored["runs"], content["runs"], strict=True):
        assert old["length"] == new["length"]
        old["seconds"] |= new["seconds"]
    rows = list(content["runs"][0]["seconds"])
    stored.setdefault("added", []).append({"rows": rows, "environment": content["environment"]})
    return stored


def table(content: dict[str, Any]) -> str:
    runs = content["runs"]
    header = ["", *(f"{one['length']:,}" for one in runs), "of plain attention", "exponent"]
    lengths, rows = [one["length"] for one in runs], []
    for name in runs[-1]["seconds"]:
        seconds = [one["seconds"][name] for one in runs]
        part = seconds[-1] / runs[-1]["seconds"].get("plain attention", float("nan"))
        exponent = f"{measure.slope(lengths, seconds):.2f}" if len(runs) > 1 else "-"
        rows.append([name, *map(measure.seconds, seconds), f"{part:.2f}", exponent])
    return report.table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    parser.add_argument("--only", default="", metavar="WORD", help="rows with this word in them")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = run((64,) if options.quick else LENGTHS, 1 if options.quick else 2, options.only)
    if options.only and not options.quick:
        content = beside_stored(content, options.results)
    if not options.quick:
        report.save("long_texts", content, options.results)
    print(f"\n{table(content)}")


if __name__ == "__main__":
    main()
