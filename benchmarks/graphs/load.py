"""Where data sets are kept, and the small parts of a quick run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.graphs.study import Parts

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphformer"
QUICK = 48
"""Graphs of each part in a quick run."""


def first(data: Any, quick: bool) -> Any:
    return data[: min(QUICK, len(data))] if quick else data


def cut(parts: tuple[Any, Any, Any], quick: bool, test: str = "test") -> Parts:
    train, valid, tested = (first(part, quick) for part in parts)
    return Parts(train, valid, {test: tested})
