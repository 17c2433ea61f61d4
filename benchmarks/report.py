"""What every benchmark does alike: say where it ran, keep its results, sum up repeated runs."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "graphformer",
    "torch",
    "torch-geometric",
    "dgl",
    "torch-sparse",
    "x-transformers",
    "transformers",
    "accelerate",
    "scipy",
    "numpy",
)


def data_dir() -> Path:
    """The folder of the real data sets: ``GRAPHFORMER_DATA``, or ``../shared/data`` beside the
    repository.
    """
    folder = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(
            f"error: no data folder at {folder}; set GRAPHFORMER_DATA, or use --quick, which needs "
            "none"
        )
    return folder


def environment() -> dict[str, Any]:
    """Machine, versions and command of this run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    processor = next(
        (
            line.split(":")[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "machine": {
            "processor": processor,
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "versions": versions,
        "command": command(),
    }


def command() -> str:
    """How this program was started, ``python -m benchmarks.attention --quick``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = (
        f"benchmarks.{Path(sys.argv[0]).stem}"
        if spec is None
        else spec.name.removesuffix(".__main__")
    )
    return "python -m " + shlex.join([name, *sys.argv[1:]])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def save(name: str, content: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``folder/name.json`` in one step, so that an interrupted benchmark leaves the last
    whole state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
    return path


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % confidence interval of the mean (Student's t); the half-width
    of one value is NaN.
    """
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(half)


def filled(page: str, benchmark: str, texts: dict[str, str]) -> str:
    """The page with generated texts in their places, which begin with a comment that holds the
    command, ``<!-- python -m benchmarks.paper --docs: runs -->``, and end with ``<!-- end -->``.

    Args:
        benchmark: the module's name.
        texts: by their names; a benchmark's only text may have none, ``""``.

    Raises:
        ValueError: a place is missing.
    """
    for name, text in texts.items():
        said = f": {name}" if name else ""
        begin = re.escape(f"<!-- python -m benchmarks.{benchmark} --docs{said} -->")
        place = re.compile(rf"({begin}\n).*?(<!-- end -->)", re.DOTALL)
        page, found = place.subn(lambda at, text=text: f"{at[1]}\n{text}\n\n{at[2]}", page)
        if found != 1:
            raise ValueError(f"there are {found} places for {name!r}, and one is wanted")
    return page


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
