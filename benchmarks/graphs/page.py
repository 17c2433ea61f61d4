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


def filled(page: str, results: Path = report.RESULTS) -> str:
    """The page with every table in its place."""

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{stored_table(found[2], bool(found[3]), results)}\n\n{found[4]}"

    return PLACE.sub(table, page)
