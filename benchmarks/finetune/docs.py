"""docs/adapters.md from the stored runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.finetune import cost, show
from benchmarks.finetune.data import TEXTS

PAGE = report.RESULTS.parents[1] / "docs" / "adapters.md"


def page(folder: Path = report.RESULTS) -> str:
    """The page as it should be."""
    usual = {f"finetune-{text}": text for text in TEXTS}
    contents = {
        path.stem: json.loads(path.read_text())
        for path in sorted(folder.glob("finetune-*.json"))
        if path.stem != "finetune-cost"
    }
    texts = {name: show.table(contents[stem]) for stem, name in usual.items()}
    texts["cost"] = cost.cost_table(json.loads((folder / "finetune-cost.json").read_text()))
    texts["others"] = "\n\n".join(
        f"{title(content)}:\n\n{show.table(content)}"
        for stem, content in contents.items()
        if stem not in usual and content["runs"]  # not one that still chooses its rates
    )
    return report.filled(PAGE.read_text(), "finetune", texts)


def title(content: dict[str, Any]) -> str:
    """What a study beside the usual ones is of."""
    said = content["settings"]
    parts = [said.get("model", "stories260K"), said["text"]]
    if "examples" in said:
        parts.append(f"{said['examples']} examples")
    if "rank" in said:
        parts.append(f"as large as a LoRA of rank {said['rank']}")
    parts.append(f"{said['steps']} steps of {said['batch']} windows")
    parts.append(f"tested on {said['tokens']['test']:,} tokens")
    return ", ".join(parts)


def write(folder: Path = report.RESULTS) -> Path:
    PAGE.write_text(page(folder))
    return PAGE
