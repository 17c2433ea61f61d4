"""Graph models on real data, beside peers trained in the same run on the same splits and features.

    python -m benchmarks.graphs polymer-dft-egc              all models, all folds;
        benchmarks/results/graphs-polymer-dft-egc.json
    python -m benchmarks.graphs vipea --models gin --repeats 1
        a part of it; the other runs of the file stay
    python -m benchmarks.graphs polycrystals --quick         a small part for one epoch: does it
                                                             run? Writes no result file
    python -m benchmarks.graphs polycrystals --search
        width, learning rate and dropout searched with the same budget for every body
        (:mod:`benchmarks.graphs.search`); benchmarks/results/graphs-search/polycrystals.json
    python -m benchmarks.graphs all --show                   the tables of the stored results
    python -m benchmarks.graphs all --docs                   the same into docs/graph-benchmarks.md
    python -m benchmarks.graphs all --plot                   and their plots, docs/graphs-*.png

Every network has the same width, number of layers, inputs, encodings, readout, head, loss,
optimizer, learning rate and number of epochs. No rate and no size is tuned for one of them alone,
but for --search, which tunes them for all; what a study has under ``ours`` (coarse levels, the
normalizer of the weights) is ours alone, and was kept where validation error fell with it, as was
GIN without own features and without a norm in its MLPs. Runs are repeated over folds or seeds; the
weights with the lowest validation loss are tested.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import transformers

from benchmarks import report
from benchmarks.graphs import brec, page, search, study
from benchmarks.graphs.studies import STUDIES

DOCS = report.RESULTS.parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[*STUDIES, "brec", "all"])
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument(
        "--repeats",
        type=int,
        help="folds or seeds, from the first one; those beyond the folds are the folds again, with "
        "other seeds",
    )
    parser.add_argument("--first", type=int, default=0, help="the first fold or seed")
    parser.add_argument(
        "--quick", action="store_true", help="a small part for one epoch; writes no result file"
    )
    parser.add_argument(
        "--search", action="store_true", help="settings chosen by validation, body by body"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the stored results and train nothing"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw the stored results and train nothing"
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help=f"write all stored results into {page.PAGE.name} and train nothing",
    )
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the result files"
    )
    options = parser.parse_args()
    if options.search and (options.plot or options.name == "brec"):
        parser.error("--search has no plot, and BREC has none; leave out --plot, or name a study")
    if options.docs:
        if options.name != "all":
            parser.error(f"--docs writes the whole page; say all, not {options.name}")
        page.PAGE.write_text(page.filled(page.PAGE.read_text(), options.results))
        return
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in [*STUDIES, "brec"] if options.name == "all" else [options.name]:
        if name == "brec" and options.search:
            continue
        if name == "brec":
            run_brec(parser, options)
            continue
        one = STUDIES[name]()
        if options.search:
            run_search(parser, options, one)
            continue
        if options.show or options.plot:
            path = options.results / f"graphs-{name}.json"
            if not path.is_file():
                continue
            content = json.loads(path.read_text())
            if options.plot:
                study.plot(one, content, DOCS / f"graphs-{name}.png")
        else:
            models = known(parser, options.models, one.contenders, name)
            repeats = repeats_of(parser, options, one)
            content = study.run(
                one, models, repeats, options.quick, None if options.quick else options.results
            )
        print(f"{one.title}\n\n{study.table(one, content)}\n")


def repeats_of(
    parser: argparse.ArgumentParser, options: argparse.Namespace, one: study.Study
) -> list[int]:
    """The folds or seeds to run; ends the program where there are none of these numbers."""
    count = (1 if options.quick else one.repeats) if options.repeats is None else options.repeats
    if options.first < 0 or count < 1:
        parser.error(f"--first {options.first} --repeats {count}: repeats are one or more, from 0")
    repeats = list(range(options.first, options.first + count))
    if options.search and search.SEED in repeats:
        parser.error(f"--first {options.first}: seed {search.SEED} is that of the search alone")
    return repeats


def run_search(
    parser: argparse.ArgumentParser, options: argparse.Namespace, one: study.Study
) -> None:
    """Searched settings: their runs, or the stored ones."""
    found = search.Search(one, None if options.quick else options.results, options.quick)
    if options.show:
        if not found.store.content["runs"]:
            return
    else:
        names = known(parser, options.models, list(search.BODIES), f"{one.name} --search")
        found.all(names, repeats_of(parser, options, one))
    print(f"{one.title}, searched settings\n\n{search.table(found)}\n")


def known(
    parser: argparse.ArgumentParser, asked: list[str] | None, contenders: list[str], name: str
) -> list[str]:
    """The models to run; ends the program where one is not known."""
    if unknown := set(asked or ()) - set(contenders):
        parser.error(f"--models {' '.join(sorted(unknown))}: {name} knows {', '.join(contenders)}")
    return asked or contenders


def run_brec(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """BREC has a protocol and contenders of its own; ``python -m benchmarks.graphs.brec`` has more
    options.
    """
    if not (options.show or options.plot):
        brec.run(
            options.quick,
            0,
            known(parser, options.models, list(brec.CONTENDERS), "brec"),
            options.results,
        )
        return
    path = options.results / "graphs-brec.json"
    if path.is_file():
        content = json.loads(path.read_text())
        print(f"BREC: pairs of graphs told apart\n\n{brec.table(content)}\n")
        if options.plot:
            brec.plot(content, DOCS / "graphs-brec.png")


if __name__ == "__main__":
    main()
