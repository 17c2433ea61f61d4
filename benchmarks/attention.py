"""What graphs and graph operators cost, relative to plain attention on torch's own kernel.

One thread; CPU time, the median of interleaved repetitions; memory is what one step adds to the
resident set at its peak. Batch 1, 8 heads of 64, causal, float32. Scores have a standard deviation
of about 3 wherever edges are cut.

    python -m benchmarks.attention                      everything, about a quarter of an hour;
                                                        benchmarks/results/attention.json
    python -m benchmarks.attention --sections gin pna   only these; the others' results are kept
    python -m benchmarks.attention --quick              small sizes: does it run?
    python -m benchmarks.attention --show               the tables of the last results
    python -m benchmarks.attention --plot               and their curves, docs/attention-time.png
                                                        and docs/attention-memory.png
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphformer as gf
from benchmarks import measure, naive, report
from graphformer.attention import merged_graph

SEED, HIDDEN, HEADS, DIM, TAU = 0, 512, 8, 64, 0.05
LONG = 16384
"""From this length on a step is run once, after a warm-up at length 1024."""

SECTIONS: dict[str, tuple[str, tuple[str, ...], tuple[int, ...]]] = {
    "gin": (
        "GIN layer without a threshold, forward + backward",
        (
            "plain attention layer",
            "GINAttention",
            "SumAttention",
            "x-transformers Attention",
            "naive GIN",
            "PyG TransformerConv",
        ),
        (1024, 2048, 4096),
    ),
    "graph": (
        f"Exact graph of the weights above {TAU} and its weighted sum, forward + backward",
        ("SDPA", "stream", "stream, renormalized", "dense"),
        (1024, 2048, 4096),
    ),
    "graph-forward": (
        f"Exact graph of the weights above {TAU} and its weighted sum, forward only",
        ("SDPA", "stream", "stream, renormalized", "dense"),
        (1024, 2048, 4096),
    ),
    "merged": (
        "Graph of the merged heads (above 0.14) and the attention output, forward only",
        ("SDPA", "merged_graph", "dense"),
        (1024, 2048, 4096),
    ),
    "pna": (
        f"PNA layer, forward + backward, with a threshold of {TAU} and without",
        ("PNAAttention, threshold", "naive PNA, threshold", "PNAAttention", "naive PNA"),
        (512,),
    ),
    "compiled": (
        "Layers under torch.compile(fullgraph=True), forward + backward",
        tuple(
            name + how
            for name in ("GINAttention", "GINAttention, threshold", "PNAAttention, threshold")
            for how in ("", ", compiled")
        ),
        (1024, 2048),
    ),
    "growth": (
        "Growth of one layer with length, forward + backward",
        ("GINAttention, threshold", "GINAttention", "plain attention layer", "naive GIN"),
        (1024, 2048, 4096, 8192, 16384, 32768),
    ),
}
LONGEST = {
    "PyG TransformerConv": 1024,
    "plain attention layer": 16384,
    "GINAttention": 16384,
    "naive GIN": 4096,
}
"""Contenders that do not go to the end: TransformerConv holds several ``[E, 512]`` tensors, the
naive layer ``[8, N, N]``.
"""

# section, contender, baseline, length, what, bound, whether more is better
GOALS: list[tuple[str, str, str, int, str, float, bool]] = [
    *(
        ("gin", "GINAttention", "plain attention layer", n, "seconds", 1.15, False)
        for n in (1024, 2048, 4096)
    ),
    *(
        ("gin", "GINAttention", "plain attention layer", n, "bytes", 1.3, False)
        for n in (1024, 2048, 4096)
    ),
    ("gin", "naive GIN", "GINAttention", 4096, "seconds", 8, True),
    ("gin", "naive GIN", "GINAttention", 4096, "bytes", 15, True),
    ("graph", "stream", "SDPA", 2048, "seconds", 1.4, False),
    ("graph", "stream", "SDPA", 4096, "seconds", 1.2, False),
    *(("graph", "stream", "SDPA", n, "bytes", 2.5, False) for n in (1024, 2048, 4096)),
    ("merged", "merged_graph", "SDPA", 4096, "seconds", 1.5, False),
    ("pna", "naive PNA, threshold", "PNAAttention, threshold", 512, "seconds", 50, True),
    ("pna", "naive PNA", "PNAAttention", 512, "seconds", 50, True),
]


# ------------------------------------------------------------------ the steps


def build(section: str, contender: str, length: int) -> measure.Step:
    """One step of a contender."""
    torch.manual_seed(SEED)
    if section in ("gin", "pna", "compiled", "growth"):
        return layer_step(make_layer(contender), length)
    if section == "merged":
        inputs = queries(length)
        return lambda: merged_step(contender, *inputs)
    backward = section == "graph"
    q, k, v = (x.requires_grad_(backward) for x in queries(length))
    upstream = torch.randn_like(v)

    def step() -> Any:
        with torch.set_grad_enabled(backward):
            out = graph_sum(contender, q, k, v)
        return torch.autograd.grad(out, (q, k, v), upstream) if backward else out

    return step


def queries(length: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 1, HEADS, length, DIM, generator=torch.Generator().manual_seed(SEED))
    return 3 * q, k, v


def make_layer(contender: str) -> nn.Module:
    if contender == "plain attention layer":
        return naive.PlainAttention(HIDDEN, HEADS)
    if contender == "SumAttention":
        return gf.nn.SumAttention(HIDDEN, HEADS)
    if contender == "x-transformers Attention":
        from x_transformers.x_transformers import Attention

        return Attention(HIDDEN, dim_head=DIM, heads=HEADS, causal=True, flash=True)
    if contender == "PyG TransformerConv":
        return DenseTransformerConv()
    if contender.endswith(", compiled"):
        return torch.compile(make_layer(contender.removesuffix(", compiled")), fullgraph=True)
    kind = gf.nn.PNAAttention if "PNA" in contender else gf.nn.GINAttention
    layer = kind(HIDDEN, HEADS, sparsify=gf.Threshold(TAU) if "threshold" in contender else None)
    with torch.no_grad():
        layer.q_proj.weight *= 9  # scores of random inputs: from a standard deviation of 1/3 to 3
    if "naive" in contender:
        return naive.NaivePNA(layer) if "PNA" in contender else naive.NaiveGIN(layer)
    return layer


class DenseTransformerConv(nn.Module):
    """PyG's attention over all causal pairs as explicit edges."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import TransformerConv

        self.conv = TransformerConv(HIDDEN, DIM, heads=HEADS, root_weight=False)
        self.edge_index = torch.empty(2, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.edge_index.numel():  # in the warm-up
            # sender <= receiver
            self.edge_index = (
                torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu().nonzero().T.contiguous()
            )
        return self.conv(x[0], self.edge_index).unsqueeze(0)


def layer_step(layer: nn.Module, length: int) -> measure.Step:
    torch.manual_seed(SEED)  # a naive layer draws parameters that it then replaces
    x = torch.randn(1, length, HIDDEN, requires_grad=True)
    upstream = torch.randn(1, length, HIDDEN)
    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), leaves, upstream, allow_unused=True)


def graph_sum(contender: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if contender == "SDPA":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    sparsify = gf.Threshold(TAU, renormalize="renormalized" in contender)
    graph = gf.attention_graph(
        q, k, sparsify=sparsify, is_causal=True, executor=contender.split(",")[0]
    )
    return gf.aggregate(graph, v)


@torch.no_grad()
def merged_step(contender: str, q: Tensor, k: Tensor, v: Tensor) -> Any:
    if contender == "SDPA":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if contender == "merged_graph":
        return merged_graph(q, k, v, sparsify=gf.Threshold(0.14), is_causal=True)
    scores = q @ k.transpose(-1, -2) / DIM**0.5
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    merged = weights.sum(1).clamp(max=1.0)
    return gf.AttentionGraph.from_dense(merged, keep=merged > 0.14), weights @ v


def check(section: str, contenders: tuple[str, ...], length: int = 96) -> None:
    """Contenders that should agree do (of a layer the gradient of its input): only then is it fair
    to compare their times.
    """
    for first, second in {
        "gin": [("GINAttention", "naive GIN")],
        "pna": [("PNAAttention", "naive PNA"), ("PNAAttention, threshold", "naive PNA, threshold")],
        "graph": [("stream", "dense")],
        "graph-forward": [("stream", "dense")],
        "merged": [("merged_graph", "dense")],
        "compiled": [(name, name + ", compiled") for name in contenders[::2]],
        "growth": [("GINAttention, threshold", "naive GIN, threshold")],
    }[section]:
        if not installed(second):
            continue
        ours, theirs = build(section, first, length)(), build(section, second, length)()
        if section == "merged":
            ours, theirs = (ours[0].to_dense(), ours[1]), (theirs[0].to_dense(), theirs[1])
        elif section != "graph":  # a naive layer has its parameters in other places
            ours, theirs = ours[:1], theirs[:1]
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ running them


def case(argument: str) -> None:
    """What a child process does."""
    what = json.loads(argument)
    length = what["length"]
    build(what["section"], what["contender"], length if length < LONG else 1024)()
    measure.answer(build(what["section"], what["contender"], length), what["repetitions"])


def run(
    section: str, lengths: tuple[int, ...], repetitions: int, quick: bool = False
) -> list[dict[str, Any]]:
    """One row for each contender and length."""
    known = SECTIONS[section][1]
    if quick and section == "compiled":  # half a minute of compiling each
        known = known[:2]
    check(section, known)
    rows = []
    for length in lengths:
        contenders = [
            name for name in known if length <= LONGEST.get(name, length) and installed(name)
        ]
        contenders = contenders[: 1 if quick and section == "growth" else None]
        steps = (
            {}
            if section == "growth"
            else {name: build(section, name, length) for name in contenders}
        )
        times = measure.cpu_times(steps, repetitions, 0 if quick else measure.SHORTEST)
        del steps
        cases = [
            {"section": section, "contender": name, "length": length, "repetitions": 0}
            for name in contenders
        ]
        if section == "growth":  # here the child takes the time as well
            cases = [{**what, "repetitions": repetitions * (length < LONG)} for what in cases]
        elif quick:
            cases = []
        found = measure.in_children(
            "benchmarks.attention", cases, together=1 if section == "growth" else 2
        )
        for i, name in enumerate(contenders):
            own = found[i] if found else {"bytes": None}
            rows.append(
                {
                    "length": length,
                    "contender": name,
                    "bytes": own["bytes"],
                    "seconds": times.get(name) or own["seconds"],
                }
            )
            print(
                f"{section} {length} {name}: "
                f"{measure.seconds(statistics.median(rows[-1]['seconds']))}",
                flush=True,
            )
    return rows


def installed(contender: str) -> bool:
    if contender.endswith(", compiled"):
        return shutil.which("g++") is not None  # torch compiles C++
    return not contender.startswith("x-transformers") or find_spec("x_transformers") is not None


# ------------------------------------------------------------------ showing results


def show(sections: dict[str, Any]) -> str:
    """All tables."""
    return "\n\n".join(
        [f"{SECTIONS[name][0]}:\n\n{table(name, part['rows'])}" for name, part in sections.items()]
        + ([goals(sections)] if sections else [])
    )


def table(section: str, rows: list[dict[str, Any]]) -> str:
    """A line a contender, time and memory a length: absolute for the first, relative to it for the
    others; all absolute for growth.
    """
    names, lengths = (
        list(dict.fromkeys(r["contender"] for r in rows)),
        list(dict.fromkeys(r["length"] for r in rows)),
    )
    found = {(r["contender"], r["length"]): r for r in rows}
    lines = []
    for name in names:
        cells = []
        for length in lengths:
            row, base = found.get((name, length)), found[names[0], length]
            if row is None:
                cells.append("")
            elif name == names[0] or section == "growth":
                memory = measure.mebibytes(row["bytes"]) if row["bytes"] else "-"
                cells.append(f"{measure.seconds(statistics.median(row['seconds']))}, {memory}")
            else:
                cells.append(
                    ", ".join(
                        measure.times_as_much(measure.ratio(row, base, what))
                        for what in ("seconds", "bytes")
                    )
                )
        lines.append([name, *cells, *(exponents(rows, name) if section == "growth" else [])])
    header = [
        "time, memory",
        *map(str, lengths),
        *(["exponent of time", "of memory"] if section == "growth" else []),
    ]
    return report.table(header, lines)


def exponents(rows: list[dict[str, Any]], name: str) -> list[str]:
    """The slopes on logarithmic axes, over all lengths of the contender."""
    mine = [r for r in rows if r["contender"] == name and r["bytes"]]
    if len(mine) < 2:
        return ["-", "-"]
    lengths, seconds = [r["length"] for r in mine], [statistics.median(r["seconds"]) for r in mine]
    return [
        f"{measure.slope(lengths, seconds):.2f}",
        f"{measure.slope(lengths, [r['bytes'] for r in mine]):.2f}",
    ]


def goals(sections: dict[str, Any]) -> str:
    """What was aimed at, and whether it was reached."""
    lines = []
    for section, name, base, length, what, bound, at_least in GOALS:
        rows = {
            (r["contender"], r["length"]): r for r in sections.get(section, {"rows": []})["rows"]
        }
        if (name, length) not in rows or (base, length) not in rows:
            continue
        value = measure.ratio(rows[name, length], rows[base, length], what)
        lines.append(
            [
                f"{name} / {base}, {'time' if what == 'seconds' else 'memory'} at {length}"
                + " (forward)" * (section == "merged"),
                f"{'>=' if at_least else '<='} {bound:g}x",
                measure.times_as_much(value),
                measure.verdict(value, bound, at_least),
            ]
        )
    longest = [
        r
        for r in sections.get("growth", {"rows": []})["rows"]
        if r["contender"] == "GINAttention, threshold" and r["bytes"]
    ]
    if len(longest) > 1:
        value = float(exponents(longest, "GINAttention, threshold")[1])
        lines.append(
            [
                "exponent of memory, GINAttention with threshold",
                "<= 1.1",
                f"{value:.2f}",
                measure.verdict(value, 1.1),
            ]
        )
        peak = longest[-1]["bytes"] / 2**30
        if longest[-1]["length"] == 32768:
            lines.append(
                [
                    "a step of length 32768 finishes on 24 GB",
                    "yes",
                    f"{peak:.2f} GiB",
                    measure.verdict(peak, 24),
                ]
            )
    return report.table(["goal", "bound", "measured", ""], lines)


def plot(rows: list[dict[str, Any]], folder: Path) -> None:
    """Time and memory over length, both logarithmic; the exponents in the legend."""
    from matplotlib.figure import Figure

    looks = dict(
        zip(
            SECTIONS["growth"][1],
            (("#1f5fa8", "o"), ("#2a9d8f", "s"), ("#777777", "D"), ("#d1691b", "^")),
            strict=True,
        )
    )
    lengths = sorted({r["length"] for r in rows})
    for what, label, scale in (
        ("time", "CPU seconds of a step", 1.0),
        ("memory", "memory a step adds at its peak, MiB", 2.0**20),
    ):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        ax = figure.add_subplot()
        for name, (colour, marker) in looks.items():
            mine = [r for r in rows if r["contender"] == name]
            values = [
                statistics.median(r["seconds"]) if what == "time" else r["bytes"] / scale
                for r in mine
            ]
            exponent = exponents(rows, name)[what == "memory"]
            ax.plot(
                [r["length"] for r in mine],
                values,
                color=colour,
                marker=marker,
                label=f"{name} (exponent {exponent})",
            )
        ax.set(xscale="log", yscale="log", xlabel="length (tokens)", ylabel=label)
        ax.set_title(
            "One layer, hidden size 512, 8 heads, forward + backward, one CPU core", fontsize=10
        )
        ax.set_xticks(lengths, [str(n) for n in lengths])
        ax.minorticks_off()
        ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9)
        figure.savefig(folder / f"attention-{what}.png", dpi=150)


def kept(folder: Path | None) -> dict[str, Any]:
    """The sections of earlier runs."""
    path = (folder or report.RESULTS) / "attention.json"
    return json.loads(path.read_text())["sections"] if path.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, almost no memory measurements; writes no result file",
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
        return case(options.case)

    folder = options.output or (None if options.quick else report.RESULTS)
    if options.show or options.plot:
        if options.plot:
            plot(kept(folder)["growth"]["rows"], report.RESULTS.parents[1] / "docs")
        return print(show(kept(folder)))
    done: dict[str, Any] = {}
    for section in options.sections:
        lengths = SECTIONS[section][2]
        if options.quick:
            options.repetitions = min(options.repetitions, 2)
            lengths = tuple(min(n, 128) // 2 ** (section == "pna") for n in lengths[:1])
        rows = run(section, lengths, options.repetitions, options.quick)
        done[section] = {
            **report.environment(),
            "seed": SEED,
            "repetitions": options.repetitions,
            "rows": rows,
        }
        if folder:
            everything = {**kept(folder), section: done[section]}
            report.save(
                "attention",
                {"sections": {name: everything[name] for name in SECTIONS if name in everything}},
                folder,
            )
    print()
    print(show(done))


if __name__ == "__main__":
    main()
