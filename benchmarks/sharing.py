"""What it saves that layers share a graph (EchoAtt): every second layer takes the graph of the
layer before it, in the place of one of its own.

    python -m benchmarks.sharing            the table of docs/methods.md, into results/sharing.json
    python -m benchmarks.sharing --quick    small sizes: does it run? Writes no result

A language model of 8 layers, width 256, 8 heads, weights above 0.02; forward and backward of one
text, CPU time, one thread, the least of three interleaved rounds. "all edges" is the same model
with nothing cut and nothing shared, on torch's own kernel.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import graphformer as gf
from benchmarks import measure, report

OPERATORS = ("sum", "gin")
TAU = 0.02


def model(kind: str, operator: str, layers: int, width: int) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    cut = gf.Head() if kind == "all edges" else gf.Head(sparsify=gf.Threshold(TAU))
    echo = gf.Head(score="echo", normalize="identity")
    heads = [echo if kind == "shared" and i % 2 else cut for i in range(layers)]
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            vocab_size=65,
            hidden_size=width,
            intermediate_size=width * 43 // 16,
            num_hidden_layers=layers,
            num_attention_heads=8,
            operator=operator,
            head=heads,
        )
    )


def run(lengths: tuple[int, ...], layers: int, width: int, rounds: int) -> dict[str, Any]:
    runs = []
    for operator in OPERATORS:
        for length in lengths:
            ids = torch.randint(65, (1, length), generator=torch.Generator().manual_seed(0))
            steps = {}
            for kind in ("all edges", "own", "shared"):
                network = model(kind, operator, layers, width)
                steps[kind] = lambda network=network, ids=ids: network(
                    ids, labels=ids
                ).loss.backward()
            least = {name: min(one) for name, one in measure.cpu_times(steps, rounds).items()}
            runs.append({"operator": operator, "length": length, "seconds": least})
            print(operator, length, least, flush=True)
    settings = {"layers": layers, "width": width, "tau": TAU, "rounds": rounds, "seed": 0}
    return {"environment": report.environment(), "settings": settings, "runs": runs}


def table(content: dict[str, Any]) -> str:
    header = ["operator", "tokens", "all edges", "own graphs", "shared", "own / shared"]
    rows = [
        [
            one["operator"],
            f"{one['length']:,}",
            *(measure.seconds(one["seconds"][kind]) for kind in ("all edges", "own", "shared")),
            f"{one['seconds']['own'] / one['seconds']['shared']:.2f}",
        ]
        for one in content["runs"]
    ]
    return report.table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small; writes no result file")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = run((48,), 2, 32, 1) if options.quick else run((512, 2048), 8, 256, 3)
    if not options.quick:
        report.save("sharing", content, options.results)
    print(f"\n{table(content)}")


if __name__ == "__main__":
    main()
