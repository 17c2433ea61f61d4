"""What ``graphformer train-graphs`` can learn from: a kind of data that ``--dataset`` may name, and
the graphs of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from graphformer.datasets.store.cache import GraphDataset


class Opened(NamedTuple):
    """Graphs, and what the model is to be told of them."""

    dataset: GraphDataset
    target: dict[str, Any]  # arguments of GraphTransformer
    next_files: str  # what predict is called with
    read: list[Path]  # the files that the graphs were made of
    columns: dict[str, Any]  # what was read of them, and what is learned


class Source:
    """Base of the kinds; the reader of a domain names those of its domain.

    Attributes:
        kind: what it is called.
        options: the options of the command that are for it alone.
        give: what to give as ``--dataset``, in errors.
        files: what a folder of it holds, and what its files are called, in errors.
        word: the word that names it, where it is none of files.
    """

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]]
    give: ClassVar[str]
    files: ClassVar[tuple[str, str]] = ("", "")
    word: ClassVar[str | None] = None

    def holds(self, path: Path) -> bool:
        """Whether a file or folder that is there is of this kind."""
        return False

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        """The graphs.

        Args:
            values: all options of the command by name; ``levels``: the names of the levels.

        Raises:
            ValueError: an option that is missing or does not fit.
        """
        raise NotImplementedError


def graph_target(names: tuple[str, ...]) -> dict[str, Any]:
    """Of labels of whole graphs, a number each."""
    return {"target": "graph", "out_dim": len(names)}


def listed(text: str | None) -> tuple[str, ...]:
    """The names in a list such as ``"a, b"``."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
