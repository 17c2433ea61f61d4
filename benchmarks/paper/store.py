"""Where the runs of this study are kept; how: :mod:`benchmarks.store`."""

from __future__ import annotations

from benchmarks import report
from benchmarks.store import Store as Store

FOLDER = report.RESULTS / "paper"
