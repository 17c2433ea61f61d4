"""The paper's claims (arXiv 2501.02393), each measured again, and recipes around GIN.

    python -m benchmarks.paper --list              the claims, and what is stored of each
    python -m benchmarks.paper perplexity          all runs of a claim that are not stored yet, in
                                                   turns over its rows, at full scale: hours on two
                                                   CPU cores; --scale small: minutes
    python -m benchmarks.paper perplexity --row gin --seed 3
                                                   a single run (and the grid of rates that chooses
                                                   its learning rate)
    python -m benchmarks.paper perplexity --show   the tables of the stored runs
    python -m benchmarks.paper --docs              docs/evidence.md, its figures and the README's
                                                   table from the stored runs
    python -m benchmarks.paper --quick             made and embedded data, a few steps of every
                                                   row: does it run? Writes no result file

Every row has as many parameters as the standard transformer (within one percent) and sees the same
batches for the same seed. Its learning rate is chosen on validation from one grid, with a seed of
its own. Runs lie in benchmarks/results/paper with all their settings, defaults too; a stored run of
the same settings is not repeated, so what was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers

from benchmarks.paper import evidence, tables
from benchmarks.paper.claims import CLAIMS, Claim
from benchmarks.paper.data import QUICK, SOURCES
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.runner import Runner, too_few
from benchmarks.paper.settings import FOLDER
from benchmarks.paper.values import METRICS, file_of, values_of
from benchmarks.store import Store


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("claim", nargs="?", choices=CLAIMS, metavar="CLAIM", help="see --list")
    made.add_argument("--scale", choices=("full", "small"), default="full")
    made.add_argument("--seeds", type=int, help="[default: 5; a screening 3, its finals 10]")
    made.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows of the claim")
    made.add_argument("--row", metavar="ROW", help="a single run: this row, with --seed")
    made.add_argument("--seed", type=int, help="of --row: of the weights and of the data")
    made.add_argument("--list", action="store_true", help="the claims")
    made.add_argument("--show", action="store_true", help="the stored runs; nothing is trained")
    made.add_argument("--docs", action="store_true", help="write the pages from the stored runs")
    made.add_argument("--quick", action="store_true", help="a few steps; writes no result file")
    made.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    return made


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    check(options)
    if options.list:
        print(tables.listing(options.results))
    elif options.docs:
        for path in evidence.write(options.results):
            print(path)
    elif options.quick:
        quick([CLAIMS[options.claim]] if options.claim else list(CLAIMS.values()))
    elif options.show:
        print(tables.of_claim(CLAIMS[options.claim], options.results, options.scale))
    else:
        train(options)


def check(options: argparse.Namespace) -> None:
    """Errors of what was asked for, before anything is trained."""
    told = parser().error
    if not (options.claim or options.list or options.docs or options.quick):
        told("a CLAIM is needed (or --list, --docs, --quick); --list tells them")
    if options.seeds is not None and options.seeds < 1:
        told(f"--seeds {options.seeds}: at least one is needed")
    if (options.row is None) != (options.seed is None):
        told("--row and --seed go together: they name a single run")
    if options.seed is not None and options.seed < 0:
        told(f"--seed {options.seed}: seeds are 0 and more")
    if options.row and options.rows:
        told("--row names a single run and --rows all seeds of some rows: give one of them")
    if not options.claim:
        for name in ("row", "rows", "show"):
            if getattr(options, name):
                told(f"--{name} is of one claim: name it")
        return
    known = CLAIMS[options.claim].rows
    for row in [*(options.rows or []), *([options.row] if options.row else [])]:
        if row not in known:
            told(f"{row!r} is no row of {options.claim}: {', '.join(known)}")


def train(options: argparse.Namespace) -> None:
    claim = CLAIMS[options.claim]
    if claim.experiment not in EXPERIMENTS:
        parser().error(f"{claim.name} reads the runs of another benchmark ({claim.command})")
    experiment = EXPERIMENTS[claim.experiment]
    scale = experiment.scales[options.scale]
    texts = SOURCES[experiment.source](scale.data)
    store = Store(file_of(experiment.name, options.scale), options.results)

    def told(line: str) -> None:
        print(line, flush=True)

    runner = Runner(experiment, scale, texts, store, told)
    if options.row:
        runner.one(options.row, runner.rate(options.row), (options.seed, options.seed))
        return
    rows = options.rows or claim.rows
    rows = [name for name in claim.rows if name in rows]  # in the claim's order
    runner.all(rows, options.seeds or claim.seeds)
    print(f"\n{tables.of_claim(claim, options.results, options.scale)}")
    if not experiment.crossed:
        found = values_of(claim.experiment, options.results, options.scale)
        for contrast in claim.contrasts:
            metric = {row: found.get(row, {}).get(contrast.metric, {}) for row in claim.rows}
            pair = {row: metric.get(row, {}) for row in (contrast.row, contrast.base)}
            for line in too_few(pair, contrast.base):
                print(f"{METRICS[contrast.metric]}: {line}")


def quick(claims: list[Claim]) -> None:
    """A few steps of every row that these claims read; rows of several data sets once."""
    done: dict[tuple[str, ...], Store] = {}
    for claim in claims:
        if claim.experiment not in EXPERIMENTS:
            continue
        experiment = EXPERIMENTS[claim.experiment]
        rows = tuple(claim.rows)
        if rows in done and len(claims) > 1:
            continue
        scale = experiment.scales["quick"]
        texts = QUICK[experiment.source](scale.data)
        store = next(
            (one for one in done.values() if one.name == experiment.name),
            Store(experiment.name, None),
        )
        done[rows] = store
        runner = Runner(experiment, scale, texts, store, lambda line: None)
        runner.all(claim.rows, 2)
        print(f"{claim.name}: {claim.words}\n\n{tables.of_store(claim, store)}\n")


if __name__ == "__main__":
    main()
