"""The tables of the stored results, into docs/graph-benchmarks.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import report
from benchmarks.graphs import brec, search, study
from benchmarks.graphs.studies import STUDIES

PAGE = report.RESULTS.parents[1] / "docs" / "graph-benchmarks.md"
PLACE = re.compile(
    r"(<!-- python -m benchmarks.graphs (\S+)( --search)? --docs -->\n).*?(<!-- end -->)", re.DOTALL
)


def stored_table(name: str, searched: bool, results: Path = report.RESULTS) -> str:
    """The table of a study, or of its searched settings, from its result file."""
    if searched:
        return search.table(search.Search(STUDIES[name](), results))
    content = json.loads((results / f"graphs-{name}.json").read_text())
    return brec.table(content) if name == "brec" else study.table(STUDIES[name](), content)


def standings(results: Path = report.RESULTS) -> dict[str, list[str]]:
    """The studies in which plain attention is ahead of the best peer, behind, or ``"level"``: by
    the paired 95 % interval of the first metric.
    """
    found: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for name, made in STUDIES.items():
        path = results / f"graphs-{name}.json"
        if not path.is_file():
            continue
        one, content = made(), json.loads(path.read_text())
        best = study.best_peer(one, content)
        differences = study.pair(one, content, "sum", best) if best else []
        if len(differences) < 2:
            continue
        mean, half = report.interval(differences)
        way = mean if study.higher_is_better(one.columns[0]) else -mean
        found["level" if abs(mean) <= half else "ahead" if way > 0 else "behind"].append(name)
    return found


def filled(page: str, results: Path = report.RESULTS) -> str:
    """The page with every table in its place."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{stored_table(found[2], bool(found[3]), results)}\n\n{found[4]}"

    return PLACE.sub(table, page)
