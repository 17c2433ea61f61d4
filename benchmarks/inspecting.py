"""What it costs to read the attention graphs of a pre-trained model: SmolLM2-135M, 30 layers of 9
heads, on real text.

Times are CPU seconds of one thread, rounds in which every contender takes its turn; memory is what
one call adds to the resident set at its peak, each in a process of its own. ``output_attentions``
is transformers' own way, with eager attention, and what BertViz draws from: every matrix is held.

    python -m benchmarks.inspecting              512 and 2,048 tokens; results/inspecting.json
    python -m benchmarks.inspecting --quick      a tiny random Llama: does it run?
    python -m benchmarks.inspecting --show       the table of the last results
    python -m benchmarks.inspecting --folder F   where SmolLM2 is, or is to be, unpacked
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers

import graphformer as gf
from benchmarks import measure, report
from benchmarks.smollm2 import make_folder

NAME = "inspecting"
CONTENDERS = {
    "plain forward": "forward",
    "graphs": "graphs",
    "graphs and measures of all weights": "streamed",
    "sender_mass of all heads": "mass",
    "output_attentions=True": "dense",
}


def make_model(folder: str) -> Any:
    if folder:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False
        ).eval()
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(vocab_size=61, num_attention_heads=4, **sizes)
    return transformers.LlamaForCausalLM(config).eval()


def make_ids(folder: str, length: int) -> torch.Tensor:
    if not folder:
        return torch.randint(61, (1, length), generator=torch.Generator().manual_seed(0))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    text = (report.data_dir() / "tinyshakespeare" / "input.txt").read_text()
    return tokenizer(text[: 8 * length], return_tensors="pt").input_ids[:, :length]


def step_of(kind: str, model: Any, ids: torch.Tensor) -> measure.Step:
    if kind == "forward":
        return lambda: model(input_ids=ids, use_cache=False)
    if kind == "dense":
        model.set_attn_implementation("eager")
        return lambda: model(input_ids=ids, use_cache=False, output_attentions=True)
    if kind == "mass":
        return lambda: gf.inspect.graphs(
            model, input_ids=ids, sparsify=gf.Threshold(0.999), streamed=True
        )
    return lambda: gf.inspect.graphs(model, input_ids=ids, streamed=kind == "streamed")


@torch.no_grad()
def child(case: dict[str, Any]) -> None:
    model, ids = make_model(case["folder"]), make_ids(case["folder"], case["length"])
    measure.answer(step_of(case["kind"], model, ids))


@torch.no_grad()
def run(
    folder: str, lengths: list[int], repetitions: int, quick: bool = False
) -> list[dict[str, Any]]:
    rows = []
    for length in lengths:
        ids = make_ids(folder, length)
        model, eager = make_model(folder), make_model(folder)
        steps = {
            name: step_of(kind, eager if kind == "dense" else model, ids)
            for name, kind in CONTENDERS.items()
        }
        times = measure.cpu_times(steps, repetitions, 0)
        edges = sum(graph.num_edges for graph in gf.inspect.graphs(model, input_ids=ids))
        for name, kind in CONTENDERS.items():
            case = {"folder": folder, "length": length, "kind": kind}
            # a process of its own imports for longer than a quick look takes
            skipped = quick and kind != "graphs"
            found = {"bytes": None}
            if not skipped:
                found = measure.in_child("benchmarks.inspecting", case)
            rows.append(
                {
                    "name": name,
                    "tokens": length,
                    "edges": edges if kind in ("graphs", "streamed") else None,
                    "seconds": times[name],
                    "bytes": found["bytes"],
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        base = next(
            r for r in rows if r["tokens"] == row["tokens"] and r["name"] == "plain forward"
        )
        lines.append(
            [
                f"{row['tokens']:,}",
                row["name"],
                measure.seconds(statistics.median(row["seconds"])),
                measure.times_as_much(measure.ratio(row, base, "seconds")),
                measure.mebibytes(row["bytes"]) if row["bytes"] is not None else "-",
                f"{row['edges']:,}" if row["edges"] else "-",
            ]
        )
    return report.table(["tokens", "", "time", "of plain", "memory", "edges"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("demo") / "smollm2")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="writes no result file")
    parser.add_argument("--output", type=Path, default=report.RESULTS)
    parser.add_argument("--show", action="store_true", help="print the last results")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        child(json.loads(options.case))
        return
    if options.show:
        print(table(json.loads((options.output / f"{NAME}.json").read_text())["rows"]))
        return
    torch.set_num_threads(1)
    folder = "" if options.quick else str(make_folder(options.folder))
    lengths = [16] if options.quick else [512, 2048]
    rows = run(folder, lengths, 1 if options.quick else options.repetitions, options.quick)
    print(table(rows))
    if not options.quick:
        settings = {"repetitions": options.repetitions, "lengths": lengths, "threshold": 0.02}
        content = {**report.environment(), "settings": settings, "rows": rows}
        report.save(NAME, content, options.output)


if __name__ == "__main__":
    main()
