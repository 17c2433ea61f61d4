"""BREC: how many of 400 pairs of graphs that are hard to tell apart do networks tell apart?

    python -m benchmarks.graphs.brec                 all networks, 9 minutes of one core;
                                                     benchmarks/results/graphs-brec.json
    python -m benchmarks.graphs.brec --quick         one pair a category: does it run? Writes no
                                                     result file
    python -m benchmarks.graphs.brec --models gin    only these
    python -m benchmarks.graphs.brec --show          the table of the stored results
    python -m benchmarks.graphs.brec --plot          and their plot, docs/graphs-brec.png

The protocol is that of :mod:`benchmarks.graphs.rpc`. All networks: width 32, 2 layers, 4 heads,
readout by mean, maximum and sum; Adam at 0.003, parts of 4 pairs of copies, at most 2 epochs over
the copies, one where its mean loss is below 0.01. One setting for all pairs, and nothing is chosen
for a pair. Pairs are told apart by what is put into the nodes as much as by the network, so both
are varied.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphformer as gf
from benchmarks import report
from benchmarks.graphs import rpc
from benchmarks.graphs.peers import Peer
from graphformer.datasets import BREC

SHARED: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "target": "graph",
    "out_dim": rpc.WIDTH,
    "edge_hidden": 8,
}
TRAINING: dict[str, Any] = {"epochs": 2, "rate": 3e-3, "enough": 0.01}
DEGREE = ("degree",)
WALK = ("degree", "random_walk:16")
SHELLS = ("degree", "random_walk:16", "shell_walk:2:8")


@dataclass(frozen=True)
class Contender:
    """A network and what its nodes are told."""

    title: str
    body: str
    encodings: tuple[str, ...]

    def make(self) -> nn.Module:
        if self.body in ("gine", "gps"):
            return Peer(self.body, 0, 0, encodings=self.encodings, **SHARED)
        return gf.GraphTransformer(0, operator=self.body, encodings=self.encodings, **SHARED)


CONTENDERS = {
    "gine": Contender("GINEConv (PyG)", "gine", DEGREE),
    "gps": Contender("GPSConv (PyG), walks", "gps", WALK),
    "gine-shells": Contender("GINEConv (PyG), walks and shells", "gine", SHELLS),
    "gin-walks": Contender("ours, GIN, walks", "gin", WALK),
    "sum": Contender("ours, plain attention, walks and shells", "sum", SHELLS),
    "gin": Contender("ours, GIN, walks and shells", "gin", SHELLS),
}
NAMES = {
    "basic": "basic",
    "regular": "regular",
    "strongly_regular": "strongly regular",
    "extension": "extension",
    "cfi": "CFI",
    "four_vertex": "4-vertex condition",
    "distance_regular": "distance regular",
}
PUBLISHED = {
    "Graphormer": 79,
    "NGNN": 166,
    "GNN-AK": 222,
    "PPGN": 233,
    "3-WL": 270,
    "KP-GNN": 275,
    "I2-GNN": 281,
}
"""Pairs told apart, of arXiv 2304.07702, each with its own settings and the pseudo-inverse. Quoted
from memory, not checked against it.
"""


def pairs_of(quick: bool) -> list[int]:
    return (
        list(range(400))
        if not quick
        else [pair for part in BREC.categories.values() for pair in part[:1]]
    )


def run(
    quick: bool, seed: int, models: Sequence[str] = (), folder: Path | None = report.RESULTS
) -> dict[str, Any]:
    """All pairs, each with every network; prints the table and, unless it is quick, keeps the
    results.
    """
    models = list(models) or list(CONTENDERS)
    dataset = BREC(None, raw=report.data_dir() / BREC.data_folder, log=False)
    told = sorted({spec for name in models for spec in CONTENDERS[name].encodings})
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in models}
    seconds, preparing = dict.fromkeys(models, 0.0), 0.0
    for pair in pairs_of(quick):
        start = time.process_time()
        what = rpc.prepare(dataset, pair, told, seed)
        preparing += time.process_time() - start
        for name in models:
            start = time.process_time()
            make: Callable[[], nn.Module] = CONTENDERS[name].make
            found[name][pair] = rpc.compare(make, what, seed * 1000 + pair, **TRAINING)
            seconds[name] += time.process_time() - start
        if not quick and pair % 10 == 9:
            told_apart = ", ".join(
                f"{name} {sum(rpc.verdict(one)[0] for one in found[name].values())}"
                for name in models
            )
            print(
                f"{pair + 1} pairs: {told_apart}; {preparing + sum(seconds.values()):.0f} s",
                flush=True,
            )
    content = {
        **report.environment(),
        "seed": seed,
        "pairs": len(pairs_of(quick)),
        "settings": {
            **SHARED,
            **TRAINING,
            "copies": rpc.COPIES,
            "threshold": rpc.THRESHOLD,
            "epsilon": rpc.EPSILON,
            "floor": rpc.FLOOR,
        },
        "seconds_encodings": round(preparing, 1),
        "published": PUBLISHED,
        "rows": [summary(name, found[name], round(seconds[name], 1)) for name in models],
    }
    if not quick and folder is not None:
        report.save("graphs-brec", content, folder)
    print(table(content))
    return content


def summary(name: str, found: dict[int, dict[str, float]], seconds: float) -> dict[str, Any]:
    """One network: pairs told apart in each category, and on how many it is not reliable."""
    apart = {pair for pair, one in found.items() if rpc.verdict(one)[0]}
    pinv = {pair for pair, one in found.items() if rpc.verdict(one, "_pinv")[0]}
    return {
        "model": name,
        "title": CONTENDERS[name].title,
        "encodings": list(CONTENDERS[name].encodings),
        "total": len(apart),
        "categories": {
            category: len(apart & set(part)) for category, part in BREC.categories.items()
        },
        "unreliable": sum(not rpc.verdict(one)[1] for one in found.values()),
        "total_pinv": len(pinv),
        "categories_pinv": {
            category: len(pinv & set(part)) for category, part in BREC.categories.items()
        },
        "unreliable_pinv": sum(not rpc.verdict(one, "_pinv")[1] for one in found.values()),
        "largest_equal": max(one["equal"] for one in found.values()),
        "smallest_apart": min((found[pair]["apart"] for pair in apart), default=None),
        "largest_not_apart": max(
            (one["apart"] for pair, one in found.items() if pair not in apart), default=None
        ),
        "not_apart": sorted(set(found) - apart),
        "parameters": sum(p.numel() for p in CONTENDERS[name].make().parameters()),
        "cpu_seconds": seconds,
    }


def table(content: dict[str, Any]) -> str:
    header = [
        f"of {content['pairs']} pairs",
        *NAMES.values(),
        "all",
        "unreliable",
        "all, pseudo-inverse",
        "CPU seconds",
    ]
    rows = []
    for row in content["rows"]:
        counts = [str(row["categories"][category]) for category in NAMES]
        ends = [
            str(row["total"]),
            str(row["unreliable"]),
            str(row["total_pinv"]),
            f"{row['cpu_seconds']:.0f}",
        ]
        rows.append([row["title"], *counts, *ends])
    note = (
        f"Encodings of all copies: {content['seconds_encodings']:.0f} CPU seconds, shared by the "
        "networks."
    )
    return report.table(header, rows) + "\n\n" + note


def plot(content: dict[str, Any], path: Path) -> None:
    """A bar a network, made of its categories, and what others report as vertical lines."""
    from matplotlib.figure import Figure

    colours = ["#1f5fa8", "#2a9d8f", "#7fb7be", "#d1691b", "#e9c46a", "#8d6a9f", "#777777"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    ax = figure.subplots()
    titles, left = [row["title"] for row in content["rows"]], [0] * len(content["rows"])
    for colour, (category, name) in zip(colours, NAMES.items(), strict=True):
        counts = [row["categories"][category] for row in content["rows"]]
        ax.barh(titles, counts, left=left, color=colour, label=name, height=0.62)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    for y, total in enumerate(left):
        ax.text(total + 3, y, str(total), va="center", fontsize=9)
    place = -20.0
    for name, value in sorted(content["published"].items(), key=lambda one: one[1]):
        place = max(value, place + 11)  # names of neighbouring lines stand beside each other
        ax.axvline(value, color="#444444", linewidth=0.7, linestyle=":")
        ax.text(place, -0.62, f"{name} {value}", rotation=60, fontsize=7, ha="left", va="bottom")
    ax.set(
        xlim=(0, 400),
        xlabel="pairs of BREC told apart, of 400 (dotted: published)",
        ylim=(len(titles) - 0.5, -0.6),
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="one pair a category; writes no result file"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the stored results and train nothing"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw the stored results and train nothing"
    )
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the result file"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not (options.show or options.plot):
        run(options.quick, options.seed, options.models, options.results)
        return
    content = json.loads((options.results / "graphs-brec.json").read_text())
    print(table(content))
    if options.plot:
        plot(content, report.RESULTS.parents[1] / "docs" / "graphs-brec.png")


if __name__ == "__main__":
    main()
