"""Runs on the disk: each is kept as soon as it is done, and none is lost to a kill or to a second
process that adds to the same file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks import report


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this lasts, no other process writes this result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    with FileLock(Path(tempfile.gettempdir()) / f"graphformer-results-{place}.lock"):
        yield


def refuse_others(path: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    """End the program where a file holds runs of other settings, before they are lost."""
    others = [
        f"{name} {before.get(name)}, not {settings.get(name)}"
        for name in {**before, **settings}
        if before.get(name) != settings.get(name)
    ]
    if others:
        raise SystemExit(
            f"error: {path} holds runs of other settings ({'; '.join(others)}): give another "
            "folder with --results, or move the file away"
        )


class Store:
    """The runs of one experiment at one scale.

    A run is known by its settings (all of them, defaults too), its rate and its seeds; other
    settings are another run, and both stay.

    Args:
        folder: None keeps runs in memory alone.
    """

    def __init__(self, name: str, folder: Path | None):
        self.name, self.folder = name, folder
        self.content: dict[str, Any] = {
            "settings": {},
            "environment": {},
            "latest": {},
            "runs": {},
        }
        self._read()

    @property
    def path(self) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.name}.json"

    def _read(self) -> None:
        if self.path is not None and self.path.is_file():
            before = json.loads(self.path.read_text())
            for part in self.content:
                self.content[part] = {**before.get(part, {}), **self.content[part]}

    def find(self, settings: dict[str, Any], rate: float, seeds: tuple[int, int]) -> Any:
        """The run, or None."""
        return self.content["runs"].get(_key(settings, rate, seeds))

    def add(
        self,
        row: str,
        settings: dict[str, Any],
        rate: float,
        seeds: tuple[int, int],
        result: dict[str, Any],
    ) -> None:
        """Keep a run. What another process has added meanwhile stays."""
        name = digest(settings)
        self.content["settings"][name] = settings
        self.content["latest"][row] = name
        environment = report.environment()
        del environment["command"]  # of a run one is as good as another
        place = digest(environment)
        self.content["environment"][place] = environment
        self.content["runs"][_key(settings, rate, seeds)] = {
            "row": row,
            "settings": name,
            "environment": place,
            "rate": rate,
            "seed_weights": seeds[0],
            "seed_data": seeds[1],
            **result,
        }
        if self.folder is None or self.path is None:
            return
        with alone(self.path):
            self._read()
            report.save(self.name, self.content, self.folder)

    def runs(self, row: str, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Runs of a row: with these settings, or with those of its latest run."""
        latest = self.content["latest"].get(row)
        wanted = latest if settings is None else digest(settings)
        found = self.content["runs"].values()
        return [one for one in found if (one["row"], one["settings"]) == (row, wanted)]


def digest(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _key(settings: dict[str, Any], rate: float, seeds: tuple[int, int]) -> str:
    return f"{digest(settings)} rate {rate:g} seeds {seeds[0]} {seeds[1]}"
