"""Polymers from the rows of a CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.polymers.polymer import CopolymerGraphs, PolymerGraphs
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Names, Reader
from graphformer.datasets.store.source import Opened, Source, graph_target, listed
from graphformer.datasets.store.tables import read_rows


class Polymers(Source):
    """A CSV file with columns of polymers and of what is learned."""

    kind, give = "polymers", "a CSV file of polymers"
    files = ("", "a CSV file")
    options = ("smiles_column", "target_columns")

    def holds(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in (".csv", ".tsv")

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        file, text = dataset, values["smiles_column"]
        header, rows = read_rows(file)
        if not rows:
            raise ValueError(
                f"--dataset: {file!r} has no rows; give a CSV with a header, a polymer a row."
            )
        if text not in header:
            raise ValueError(
                f"--smiles-column: {file} has no column {text!r}; its columns: {', '.join(header)}."
            )
        columns = list(listed(values["target_columns"]))
        if not columns:
            others = ", ".join(name for name in header if name != text)
            raise ValueError(
                "--target-columns is needed with a CSV of polymers: what is learned, one or "
                f"several of {others or 'no others'}."
            )
        for name in columns:
            if name not in header:
                raise ValueError(
                    f"--target-columns: {file} has no column {name!r}; its columns: "
                    f"{', '.join(header)}."
                )
            if columns.count(name) > 1:
                raise ValueError(
                    f"--target-columns: {name!r} is there twice; name each column once."
                )
        if text in columns:
            raise ValueError(
                f"--target-columns: {text!r} is the column of polymers; name what is learned."
            )
        made = PolymerGraphs(cache, file=file, text=text, targets=columns, log=log)
        named = {"polymer": text, "targets": columns}
        return Opened(made, graph_target(made.target_names), "NEW.csv", [Path(file)], named)


class PolymerReader(Reader):
    """A CSV file with a column of polymers."""

    name, nodes, one_file = "polymer", "atoms", True
    sources = (Polymers(),)

    def options_of(self, dataset: Any) -> dict[str, Any] | None:
        if not isinstance(dataset, PolymerGraphs | CopolymerGraphs):
            return None
        return {"text": dataset.text_column, "features": getattr(dataset, "features", "full")}

    def refuse(self, tables: Any, text: str | None) -> None:
        super().refuse(tables, None)

    def graphs(
        self, options: dict[str, Any], files: Sequence[str | Path], tables: Any, text: str | None
    ) -> GraphDataset:
        # A model that does not tell its features was trained before there was a choice.
        column, features = text or options["text"], options.get("features", "basic")
        if len(files) != 1:
            raise ValueError(
                f"files: polymers are read from one CSV file at a time, got {len(files)} files."
            )
        file = files[0]
        if not Path(file).is_file():
            raise ValueError(f"files: there is no file {str(file)!r}; give a CSV file of polymers.")
        header, rows = read_rows(file)
        if column not in header:
            known = ", ".join(header) or "none"
            raise ValueError(
                f"{file} has no column {column!r} of polymers; name its column "
                f"(--smiles-column), one of: {known}."
            )
        if not rows:
            raise ValueError(f"{file} has no rows; give a polymer a row.")
        return PolymerGraphs(None, file=file, text=column, targets=(), features=features, log=False)

    def names(self, dataset: Any, place: str, file: Path, text: str) -> Names:
        """A row for each row of the file, also for those that cannot be read."""
        header, table = read_rows(file)
        number = {int(graph.row): place for place, graph in enumerate(dataset)}
        return Names(
            ["file", "row"],
            [[file.name, row.number] for row in table],
            [number.get(row.number) for row in table],
            header,
            [[row.cells[one] or "" for one in header] for row in table],
            [f"{file}, {told}" for told in dataset.skipped],
        )


READER = PolymerReader()
