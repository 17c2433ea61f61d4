"""What a training step of gf.GraphTransformer costs on graphs of 1,000 to 100,000 nodes, and how
that grows.

Random directed graphs with 10 edges a node, 8 node features and 4 edge features; 3 layers, hidden
size 64, 4 heads, a target for each node; forward, backward and a step of AdamW. One thread,
float32. Time is CPU time, memory what a step adds to the resident set at its peak, both from one
process for each entry. A stack of PyG's GINEConv of the same depth and width stands beside it for
scale: it has no attention.

    python -m benchmarks.graph_cost             some minutes; benchmarks/results/graph_cost.json
    python -m benchmarks.graph_cost --quick     small graphs: does it run?
    python -m benchmarks.graph_cost --show      the tables of the last results
    python -m benchmarks.graph_cost --plot      and their curves, docs/graph-cost.png
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GINEConv

import graphformer as gf
from benchmarks import measure, report

SEED, DEGREE, NODE_DIM, EDGE_DIM = 0, 10, 8, 4
LAYERS, HIDDEN, HEADS = 3, 64, 4
NODES = (1_000, 3_000, 10_000, 30_000, 100_000)
QUICK = (200, 600)
LONG = 30_000
"""From so many nodes on memory is measured after a warm-up on a small graph, and time is the median
of two steps after that one.
"""
OPERATORS = ("sum", "gin", "pna")
PEER = "PyG GINEConv"
EXPONENT, MEMORY = 1.1, 8e9
"""The goals: the largest exponent of time and memory over edges, and bytes for a million edges."""


# ------------------------------------------------------------------ the steps


def random_graph(nodes: int) -> Data:
    """Senders and receivers drawn at random, features and labels too."""
    draw = torch.Generator().manual_seed(SEED)
    edges = torch.randint(nodes, (2, DEGREE * nodes), generator=draw)
    x, edge_attr = (
        torch.randn(rows, width, generator=draw)
        for rows, width in ((nodes, NODE_DIM), (DEGREE * nodes, EDGE_DIM))
    )
    return Data(x=x, edge_index=edges, edge_attr=edge_attr, y=torch.randn(nodes, 1, generator=draw))


class GINEStack(nn.Module):
    """GINEConv layers with residual connections and norms, as our blocks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(NODE_DIM, HIDDEN), nn.Linear(HIDDEN, 1)
        mlps = (
            nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN))
            for _ in range(LAYERS)
        )
        self.convs = nn.ModuleList(GINEConv(mlp, edge_dim=EDGE_DIM) for mlp in mlps)
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(LAYERS))

    def loss(self, data: Data) -> Tensor:
        h = self.first(data.x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = h + conv(norm(h), data.edge_index, data.edge_attr)
        return (self.last(h) - data.y).square().mean()


def build(contender: str, nodes: int) -> measure.Step:
    """One training step."""
    torch.manual_seed(SEED)
    data = random_graph(nodes)
    if contender == PEER:
        net: nn.Module = GINEStack()
        loss = net.loss
    else:
        sizes = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS}
        net = gf.GraphTransformer(NODE_DIM, EDGE_DIM, target="node", operator=contender, **sizes)

        def loss(data: Data) -> Tensor:
            return net(data).loss

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        value = loss(data)
        value.backward()
        optimizer.step()
        assert bool(value.isfinite())

    return step


# ------------------------------------------------------------------ running them


def measured(contender: str, nodes: int, repetitions: int) -> dict[str, Any]:
    """Bytes that a step adds, the largest resident set of the process until then, and CPU seconds
    of steps.
    """
    step = build(contender, nodes)
    (step if nodes < LONG else build(contender, NODES[0]))()
    found, _ = measure.peak_memory(step)
    row = {
        "nodes": nodes,
        "contender": contender,
        "bytes": found,
        "resident": None if found is None else measure.resident_peak(),
    }
    times = []
    for _ in range(repetitions if nodes < LONG else min(repetitions, 2)):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {**row, "seconds": times}


def run(sizes: tuple[int, ...], repetitions: int, quick: bool) -> list[dict[str, Any]]:
    """One row for each contender and size."""
    rows = []
    for nodes in sizes:
        for contender in (*OPERATORS, PEER):
            case = {"contender": contender, "nodes": nodes, "repetitions": repetitions}
            rows.append(
                measured(**case) if quick else measure.in_child("benchmarks.graph_cost", case)
            )
            print(
                f"{nodes} nodes, {contender}: "
                f"{measure.seconds(statistics.median(rows[-1]['seconds']))}",
                flush=True,
            )
    return rows


# ------------------------------------------------------------------ showing results


def exponent(rows: list[dict[str, Any]], contender: str, what: str) -> float | None:
    """The slope on logarithmic axes of ``"seconds"`` or ``"bytes"``, over all sizes."""
    mine = [row for row in rows if row["contender"] == contender and row[what]]
    values = [statistics.median(row[what]) if what == "seconds" else row[what] for row in mine]
    return measure.slope([row["nodes"] for row in mine], values) if len(mine) > 1 else None


def show(rows: list[dict[str, Any]]) -> str:
    """Time and memory of each contender and size, and (of a full run) the goals."""
    sizes = list(dict.fromkeys(row["nodes"] for row in rows))
    found = {(row["contender"], row["nodes"]): row for row in rows}
    lines, goals = [], []
    for name in (*OPERATORS, PEER):
        cells = []
        for nodes in sizes:
            row = found[name, nodes]
            memory = measure.mebibytes(row["bytes"]) if row["bytes"] else "-"
            cells.append(f"{measure.seconds(statistics.median(row['seconds']))}, {memory}")
        slopes = [exponent(rows, name, what) for what in ("seconds", "bytes")]
        lines.append(
            [name, *cells, *("-" if slope is None else f"{slope:.2f}" for slope in slopes)]
        )
        if name in OPERATORS and sizes[-1] == NODES[-1]:
            for slope, what in zip(slopes, ("time", "memory"), strict=True):
                told = "-" if slope is None else f"{slope:.2f}"
                goals.append(
                    [
                        f"exponent of {what}, {name}",
                        f"<= {EXPONENT:g}",
                        told,
                        measure.verdict(slope, EXPONENT),
                    ]
                )
    for name in OPERATORS:
        row = found.get((name, NODES[-1]))
        if row and row["resident"]:
            told = f"{row['resident'] / 1e9:.2f} GB"
            goals.append(
                [
                    f"largest resident set, {name}, 1,000,000 edges",
                    f"<= {MEMORY / 1e9:g} GB",
                    told,
                    measure.verdict(row["resident"], MEMORY),
                ]
            )
    header = [
        "time, memory",
        *(f"{nodes:,} nodes" for nodes in sizes),
        "exponent of time",
        "of memory",
    ]
    return report.table(header, lines) + (
        "\n\n" + report.table(["goal", "bound", "measured", ""], goals) if goals else ""
    )


def plot(rows: list[dict[str, Any]], folder: Path) -> None:
    """Time and memory over edges, both logarithmic; the exponents in the legend, a line of exponent
    1 beside them.
    """
    from matplotlib.figure import Figure

    looks = dict(
        zip(
            (*OPERATORS, PEER),
            (("#2a9d8f", "s"), ("#1f5fa8", "o"), ("#d1691b", "^"), ("#777777", "D")),
            strict=True,
        )
    )
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    title = (
        f"GraphTransformer, {LAYERS} layers, hidden size {HIDDEN}, {HEADS} heads: a training step "
        "on one CPU core"
    )
    figure.suptitle(title, fontsize=10)
    parts = zip(
        figure.subplots(1, 2),
        ("seconds", "bytes"),
        ("CPU seconds of a step", "memory a step adds at its peak, MiB"),
        strict=True,
    )
    for ax, what, label in parts:
        every = []
        for name, (colour, marker) in looks.items():
            mine = [row for row in rows if row["contender"] == name and row[what]]
            values = [
                statistics.median(row[what]) if what == "seconds" else row[what] / 2**20
                for row in mine
            ]
            slope = exponent(rows, name, what)
            text = f"{name} ({slope:.2f})" if slope is not None else name
            ax.plot(
                [DEGREE * row["nodes"] for row in mine],
                values,
                color=colour,
                marker=marker,
                markersize=5,
                label=text,
            )
            every += list(zip([DEGREE * row["nodes"] for row in mine], values, strict=True))
        if every:
            # Below the curves, through the lowest value of the largest graph, so that the eye can
            # compare slopes.
            (first, _), (last, _) = min(every), max(every)
            low = 0.4 * min(value for edges, value in every if edges == last)
            ax.plot(
                [first, last],
                [low * first / last, low],
                color="#bbbbbb",
                linestyle="--",
                label="exponent 1",
            )
        ax.set(xscale="log", yscale="log", xlabel="edges (10 a node)", ylabel=label)
        ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9, title="exponent in brackets", title_fontsize=8)
    figure.savefig(folder / "graph-cost.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help=f"of steps on graphs below {LONG:,} nodes"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small graphs in this process; writes no result file"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result file [default: benchmarks/results, with --quick none]",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the last results and measure nothing"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw the last results and measure nothing"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        return print(json.dumps(measured(**json.loads(options.case))))
    folder = options.output or (None if options.quick else report.RESULTS)
    if options.show or options.plot:
        rows = json.loads(((folder or report.RESULTS) / "graph_cost.json").read_text())["rows"]
        if options.plot:
            plot(rows, report.RESULTS.parents[1] / "docs")
        return print(show(rows))
    sizes = QUICK if options.quick else NODES
    rows = run(
        sizes, min(options.repetitions, 2) if options.quick else options.repetitions, options.quick
    )
    if folder:
        settings = {
            "degree": DEGREE,
            "layers": LAYERS,
            "hidden": HIDDEN,
            "heads": HEADS,
            "repetitions": options.repetitions,
        }
        report.save(
            "graph_cost",
            {**report.environment(), "seed": SEED, "settings": settings, "rows": rows},
            folder,
        )
    print()
    print(show(rows))


if __name__ == "__main__":
    main()
