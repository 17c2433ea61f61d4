"""Where a run's data come from and which of them it learns from, as files for its folder.

``data.json`` names what was read, with SHA-256 digests as ``sha256sum`` prints them, and the
columns. Of a text it holds the parts, too; of graphs they are in ``split.csv``, a row a graph.
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.cli.graph_data import name_of
from graphformer.datasets import GraphDataset
from graphformer.datasets.store.source import Opened
from graphformer.training.run import COMMAND_FILE, DATA_FILE, SPLIT_FILE
from graphformer.training.saving import digest


def of_text(path: Path | None, texts: Sequence[str], tokens: Sequence[int]) -> dict[str, str]:
    """Of a text that is cut in two, the training part first.

    Args:
        path: None for the embedded one.
        texts, tokens: each part, and how many tokens it has.
    """
    source: dict[str, Any] = {"embedded": f"help topics of Python {platform.python_version()}"}
    if path is not None:
        source = {"path": str(path.absolute()), "sha256": digest(path)}
    parts, first = {}, 0
    for name, text, count in zip(("train", "validation"), texts, tokens, strict=True):
        parts[name] = {"characters": [first, first + len(text)], "tokens": count}
        first += len(text)
    return {DATA_FILE: _json({"kind": "text", **source, "parts": parts})}


def of_graphs(kind: str, opened: Opened, parts: Mapping[str, GraphDataset]) -> dict[str, str]:
    """Of graphs.

    Args:
        kind: of the data, see :class:`~graphformer.datasets.store.source.Source`.
        parts: the graphs of each part.
    """
    source: dict[str, Any] = {"generated": f"by the options in {COMMAND_FILE}"}
    if opened.read:
        source = {"sha256": {str(path.absolute()): digest(path) for path in opened.read}}
    rows = [
        (index, name, name_of(graph, index))
        for name, part in parts.items()
        for index, graph in zip(part.indices(), part, strict=True)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("graph", "part", "name"))
    writer.writerows(sorted(rows))
    told = {"kind": kind, **source, "columns": opened.columns}
    return {DATA_FILE: _json(told), SPLIT_FILE: text.getvalue()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
