"""Aggregation over a sparse graph by every backend: forward and backward, gradients to the features
and the weights.

A random causal graph of 33,000 nodes and 97,000 edges, sorted by receiver, 64 features: the size of
an attention graph of 8 heads and 4,000 tokens cut at about 3 edges a row. One thread; CPU time, the
median of interleaved repetitions.

    python -m benchmarks.aggregate              benchmarks/results/aggregate.json
    python -m benchmarks.aggregate --quick      a small graph: does it run?
    python -m benchmarks.aggregate --show       the tables of the last results
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GINConv, MessagePassing

import graphformer as gf
from benchmarks import measure, report

SEED, FEATURES = 0, 64
SIZES = {"nodes": 33_000, "edges": 97_000}
QUICK = {"nodes": 330, "edges": 970}
OURS = tuple(f"backend {name}" for name in gf.backends.available())
USERS = ("PyG MessagePassing, as a user writes it", "PyG GINConv, without weights")


class EdgeWeighted(MessagePassing):
    """What the documentation of PyG teaches."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, edge_weight=edge_weight)

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j


def random_graph(nodes: int, edges: int) -> gf.AttentionGraph:
    """Distinct edges from a node to itself or to a later one."""
    draw = torch.Generator().manual_seed(SEED)
    receivers = torch.randint(nodes, (2 * edges,), generator=draw)
    senders = (torch.rand(2 * edges, generator=draw) * (receivers + 1)).long().clamp(max=receivers)
    pairs = torch.unique(receivers * nodes + senders)
    pairs = pairs[torch.randperm(len(pairs), generator=draw)[:edges]]
    weight = torch.rand(len(pairs), generator=draw) + 0.1
    return gf.AttentionGraph.from_edges(pairs % nodes, pairs // nodes, weight, num_nodes=nodes)


def build(contender: str, reduce: str, fresh: bool, sizes: dict[str, int]) -> measure.Step:
    """One step: the reduction and its gradients. ``fresh``: what is derived from the edges is
    derived in every step.
    """
    graph = random_graph(**sizes)
    torch.manual_seed(SEED)
    x = torch.randn(sizes["nodes"], FEATURES, requires_grad=True)
    weight = graph.weight.clone().requires_grad_()
    upstream = torch.randn_like(x)
    edge_index = graph.edge_index
    convolution = GINConv(torch.nn.Identity()) if "GINConv" in contender else EdgeWeighted()

    def step() -> tuple[Tensor, ...]:
        if contender in USERS:
            out = (
                convolution(x, edge_index)
                if "GINConv" in contender
                else convolution(x, edge_index, weight)
            )
        else:
            edges = graph
            if fresh:
                edges = gf.AttentionGraph(
                    graph.senders,
                    graph.receivers,
                    weight,
                    1,
                    graph.num_senders,
                    graph.num_receivers,
                    (),
                )
            out = gf.aggregate(
                edges.with_weight(weight), x, reduce, backend=contender.removeprefix("backend ")
            )
        return torch.autograd.grad(out, (x, weight), upstream, allow_unused=True)

    return step


def run(sizes: dict[str, int], repetitions: int, quick: bool) -> list[dict[str, Any]]:
    rows = []
    for reduce in gf.backends.REDUCTIONS:
        for fresh in (False, True) if reduce == "sum" else (False,):
            names = (*OURS, *USERS) if reduce == "sum" else OURS
            steps = {name: build(name, reduce, fresh, sizes) for name in names}
            reference = steps[OURS[0]]()
            for name in names[1:]:
                if "GINConv" not in name:  # it has no weights, so it computes something else
                    for a, b in zip(reference, steps[name](), strict=True):
                        if b is not None:
                            torch.testing.assert_close(
                                a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())
                            )
            times = measure.cpu_times(steps, repetitions, 0 if quick else measure.SHORTEST)
            cases = [
                {"contender": name, "reduce": reduce, "fresh": fresh, "sizes": sizes}
                for name in names
            ]
            memory = measure.in_children(
                "benchmarks.aggregate", cases if fresh and not quick else [], together=2
            )
            for i, name in enumerate(names):
                row = {
                    "reduce": reduce,
                    "fresh": fresh,
                    "contender": name,
                    "seconds": times[name],
                    "bytes": memory[i]["bytes"] if memory else None,
                }
                rows.append(row)
            print(f"{reduce}{' on a fresh graph' * fresh}: done", flush=True)
    return rows


def show(rows: list[dict[str, Any]]) -> str:
    """The weighted sum, the other reductions, the goals."""
    found = {(r["reduce"], r["fresh"], r["contender"]): r for r in rows}
    base = {fresh: found["sum", fresh, OURS[0]] for fresh in (False, True)}
    lines = []
    for name in (*OURS, *USERS):
        cells = []
        for fresh in (False, True):
            row = found["sum", fresh, name]
            times = measure.ratio(row, base[fresh], "seconds")
            cells.append(f"{measure.seconds(statistics.median(row['seconds']))} ({times:.2f}x)")
        memory = found["sum", True, name]["bytes"]
        lines.append([name, *cells, "-" if memory is None else measure.mebibytes(memory)])
    sums = report.table(
        ["weighted sum", "structure known", "fresh graph in each step", "memory, fresh graph"],
        lines,
    )
    others = [name for name in gf.backends.REDUCTIONS if name != "sum"]
    lines = [
        [
            name,
            *(measure.seconds(statistics.median(found[r, False, name]["seconds"])) for r in others),
        ]
        for name in OURS
    ]
    aims = []
    for name, bound in (("backend pyg", 4), (USERS[0], 4), ("backend dgl", 1.5)):
        for fresh in (False, True):
            if ("sum", fresh, name) in found:
                value = measure.ratio(found["sum", fresh, name], base[fresh], "seconds")
                what = f"weighted sum, {name} / backend torch" + ", fresh graph" * fresh
                aims.append(
                    [
                        what,
                        f">= {bound}x",
                        f"{value:.2f}x",
                        measure.verdict(value, bound, at_least=True),
                    ]
                )
    return "\n\n".join(
        (
            sums,
            report.table(["other reductions", *others], lines),
            report.table(["goal", "bound", "measured", ""], aims),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a small graph; writes no result file")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result file [default: benchmarks/results, with --quick none]",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the last results and measure nothing"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        step = build(**json.loads(options.case))
        step()
        return measure.answer(step)
    folder = options.output or (None if options.quick else report.RESULTS)
    if options.show:
        return print(
            show(json.loads(((folder or report.RESULTS) / "aggregate.json").read_text())["rows"])
        )
    sizes = QUICK if options.quick else SIZES
    rows = run(sizes, options.repetitions, options.quick)
    if folder:
        settings = {**sizes, "features": FEATURES, "repetitions": options.repetitions}
        report.save(
            "aggregate",
            {**report.environment(), "seed": SEED, "settings": settings, "rows": rows},
            folder,
        )
    print()
    print(show(rows))


if __name__ == "__main__":
    main()
