"""Crystals from CIF files and pymatgen's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.crystals.files import KNOWN_SUFFIXES, holds_crystal
from graphformer.datasets.crystals.structures import CrystalStructures
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Reader
from graphformer.datasets.store.reading import is_hidden
from graphformer.datasets.store.source import Opened, Source, graph_target


class Crystals(Source):
    """A folder of crystals and a table of what is learned."""

    kind, give = "crystals", "a folder of crystals (CIF or pymatgen's JSON)"
    files = ("crystals", KNOWN_SUFFIXES)
    options = ("targets", "cutoff", "neighbors")

    def holds(self, path: Path) -> bool:
        if path.is_file():
            return holds_crystal(path)
        return any(
            holds_crystal(file)
            for file in path.rglob("*")
            if file.is_file() and not is_hidden(file.relative_to(path))
        )

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        targets, cutoff = values["targets"], values["cutoff"]
        if targets is None:
            raise ValueError(
                "--targets is needed with crystals: a CSV with a column 'file' and a column a "
                "target."
            )
        made = CrystalStructures(
            cache,
            dataset,
            targets=targets,
            cutoff=5.0 if cutoff is None else cutoff,
            neighbors=values["neighbors"],
            log=log,
        )
        read = [*map(Path, made.files.values()), Path(targets)]
        columns = {"file": "file", "targets": list(made.target_names)}
        return Opened(made, graph_target(made.target_names), "NEW.cif", read, columns)


class CrystalReader(Reader):
    """CIF files and pymatgen's JSON, and folders of them."""

    name, nodes = "crystal", "atoms"
    sources = (Crystals(),)

    def options_of(self, dataset: Any) -> dict[str, Any] | None:
        if not isinstance(dataset, CrystalStructures):
            return None
        return {
            "cutoff": float(dataset.cutoff),
            "neighbors": dataset.neighbors,
            "gaussians": dataset.gaussians,
        }

    def graphs(
        self, options: dict[str, Any], files: Sequence[str | Path], tables: Any, text: str | None
    ) -> GraphDataset:
        return CrystalStructures(None, list(files), log=False, **options)


READER = CrystalReader()
