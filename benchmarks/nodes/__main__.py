"""Node classification with one line swapped: GATConv, TransformerConv, SumAttentionConv and
GINAttentionConv in the same script.

    python -m benchmarks.nodes                       everything; benchmarks/results/nodes.json, run
                                                     by run
    python -m benchmarks.nodes cora --layers GATConv SumAttentionConv --repeats 3
        a part; the other runs of the file stay
    python -m benchmarks.nodes --quick               a small made graph for three steps: does it
                                                     run? Writes no result file
    python -m benchmarks.nodes --show                the table of the stored results
    python -m benchmarks.nodes --docs                the same into docs/node-benchmarks.md

All layers have the script's widths, rates, dropout and steps. The rates of the script for
heterophilous graphs were chosen for PyG's layers, which have their constructors' defaults; what
ours are given (``study.GIVEN``) was chosen on validation nodes, with seeds from 100.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.nodes import study

PAGE = report.RESULTS.parents[1] / "docs" / "node-benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"data sets: {', '.join(study.SETTINGS)} [default: all]",
    )
    parser.add_argument(
        "--layers", nargs="+", choices=study.LAYERS, default=list(study.LAYERS), help="only these"
    )
    parser.add_argument(
        "--repeats", type=int, default=10, help="seeds, or splits of a data set that has ten"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed or split")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small made graph for three steps; writes no result file",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the stored results and train nothing"
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help=f"write the stored results into {PAGE.name} and train nothing",
    )
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the result file"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(study.SETTINGS):
        parser.error(f"{' '.join(sorted(unknown))}: known are {', '.join(study.SETTINGS)}")
    if options.first < 0 or options.repeats < 1:
        parser.error(
            f"--first {options.first} --repeats {options.repeats}: seeds are 0 and more, and at "
            "least one is needed"
        )
    torch.set_num_threads(1)
    if options.show or options.docs:
        path = options.results / "nodes.json"
        if not path.is_file():
            parser.error(f"there is no {path} yet")
        content = json.loads(path.read_text())
    else:
        repeats = min(options.repeats, 2) if options.quick else options.repeats
        seeds = range(options.first, options.first + repeats)
        folder = None if options.quick else options.results
        content = study.run(
            options.names or list(study.SETTINGS), options.layers, seeds, options.quick, folder
        )
    table = study.table(content)
    if options.docs:
        PAGE.write_text(report.filled(PAGE.read_text(), "nodes", {"": table}))
    print(f"\n{table}")


if __name__ == "__main__":
    main()
