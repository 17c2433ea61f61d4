"""What a domain says of its files: how they become graphs, for training and for prediction, and how
predictions of them are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.source import Source


@dataclass(frozen=True)
class Names:
    """What the rows of a table of predictions are called.

    Attributes:
        columns, rows: what tells which row it is.
        prediction: which prediction each row gets; None for a row that could not be read.
        given, cells: the file's own columns, and their cells row by row.
        problems: what could not be read and why, a text each.
        notes: what was read with a doubt.
    """

    columns: list[str]
    rows: list[list[Any]]
    prediction: list[int | None]
    given: list[str] = field(default_factory=list)
    cells: list[list[Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Reader:
    """Base of the readers, one a domain; ``datasets/<domain>/reader.py`` holds it as ``READER``.

    Attributes:
        name: by which saved models know it.
        nodes: what a node is, in errors.
        places: what its tables can hold predictions of: ``"graph"``, ``"node"``.
        skips: whether files that cannot be read are left out and told in ``skipped``; else all of
            them must be readable.
        one_file: whether each file is a table of its own.
        sources: what ``graphformer train-graphs`` can learn from.
    """

    name: ClassVar[str]
    nodes: ClassVar[str]
    places: ClassVar[frozenset[str]] = frozenset({"graph"})
    skips: ClassVar[bool] = True
    one_file: ClassVar[bool] = False
    sources: ClassVar[tuple[Source, ...]] = ()

    def options_of(self, dataset: Any) -> dict[str, Any] | None:
        """What it takes to make such graphs again, as JSON holds it; None for data that are not of
        this domain.
        """
        raise NotImplementedError

    def classes_of(self, dataset: Any) -> list[str]:
        """The names of the classes, where labels are classes."""
        return []

    def graphs(
        self, options: dict[str, Any], files: Sequence[str | Path], tables: Any, text: str | None
    ) -> GraphDataset:
        """The graphs of files; ``tables`` and ``text`` as for
        :func:`~graphformer.datasets.readers.graphs_of_files`.
        """
        raise NotImplementedError

    def refuse(self, tables: Any, text: str | None) -> None:
        """ValueError for an argument that this domain has no use for."""
        if tables is not None:
            raise ValueError(
                f"tables are for grains of images, and the model reads {self.name}s; leave them "
                "out."
            )
        if text is not None:
            raise ValueError(
                f"text names the column of a CSV of polymers, and the model reads {self.name}s; "
                "leave it out."
            )

    def hint(self, lacking: Sequence[str]) -> str:
        """The remedy where nodes have other properties than the model's."""
        return "the model is of another version of graphformer: train it again"

    def names(self, dataset: Any, place: str, file: Path, text: str) -> Names:
        """What the rows of a table are called, for predictions of graphs or of nodes.

        Args:
            file: the file, where each is a table of its own. text: its column of polymers.
        """
        return Names(
            ["file"],
            [[graph.name] for graph in dataset],
            list(range(len(dataset))),
            problems=dataset.skipped,
            notes=dataset.notes,
        )
