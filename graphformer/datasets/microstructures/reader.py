"""Images of microstructures, read as graphs of grains or phases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.microstructures.images import SUFFIXES, image_files
from graphformer.datasets.microstructures.microstructure import Microstructures
from graphformer.datasets.microstructures.polycrystal import PolycrystalDataset
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Names, Reader
from graphformer.datasets.store.source import Opened, Source, graph_target
from graphformer.datasets.store.tables import some


class Polycrystals(Source):
    """The embedded generator."""

    kind, word, give = "polycrystals", "polycrystal", "polycrystal"
    options = ("graphs", "grains", "dim", "resolution", "law", "contrast")

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        names = (
            "dim",
            "resolution",
            "seed",
            "law",
            *("contrast",) * (values["law"] == "two-phase"),
        )
        own = {name: values[name] for name in names}
        made = PolycrystalDataset(cache, values["graphs"], _range(values["grains"]), log=log, **own)
        columns = {"targets": list(made.target_names)}
        target = graph_target(made.target_names)
        return Opened(made, target, "IMAGE.npy --tables FOLDER", [], columns)


def _range(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--grains must be a number or two, as in 20,40, got {text!r}.")
    return int(parts[0]), int(parts[-1])


class LabelImages(Source):
    """A folder of images and a table of what is learned."""

    kind, give = "label images", "a folder of label images"
    files = ("images", ", ".join(SUFFIXES))
    options = ("targets", "tables", "kind", "periodic", "relative")

    def holds(self, path: Path) -> bool:
        return path.is_dir() and bool(image_files(path)[0])

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        targets = values["targets"]
        if targets is None:
            raise ValueError(
                "--targets is needed with a folder of images: a CSV with a column 'file' and a "
                "column a target."
            )
        own = {name: values[name] for name in self.options}
        made = Microstructures(dataset, cache, missing=True, log=log, **own)
        read = [*made.files, targets, *(made.tables or ())]
        names = {"properties": list(made.columns), "targets": list(made.target_names)}
        more = " --tables FOLDER" if values["tables"] else ""
        target = graph_target(made.target_names)
        return Opened(made, target, f"IMAGE.npy{more}", read, {"file": "file", **names})


class MicrostructureReader(Reader):
    """Label images, with tables of the grains' properties."""

    name, nodes, skips = "microstructure", "grains", False
    sources = (Polycrystals(), LabelImages())

    def options_of(self, dataset: Any) -> dict[str, Any] | None:
        if isinstance(dataset, PolycrystalDataset):
            # Lengths are relative to the mean grain: the edge of a voxel is of no account.
            own = {"periodic": True, "relative": True}
            own["directions"] = bool(dataset.recipe.directions)
            kind = {"kind": "grains", "phases": [0, 1], "angles": {}}
            return {**own, **kind, "spacing": 1.0, "ignore": []}
        if not isinstance(dataset, Microstructures):
            return None
        spacing = dataset.options["spacing"]
        return {
            **dataset.options,
            "kind": dataset.kind,
            "phases": [int(p) for p in dataset.phases],
            "angles": dataset.angles,
            "spacing": float(spacing)
            if isinstance(spacing, int | float)
            else [float(s) for s in spacing],
            "ignore": [int(label) for label in dataset.options["ignore"]],
        }

    def refuse(self, tables: Any, text: str | None) -> None:
        super().refuse(None, text)

    def graphs(
        self, options: dict[str, Any], files: Sequence[str | Path], tables: Any, text: str | None
    ) -> GraphDataset:
        if tables is None:
            options["angles"] = {}  # they are columns of tables; that they lack is told later
        found: list[str | Path] = []
        for file in files:
            if not Path(file).is_dir():
                found.append(file)
                continue
            inside, others = image_files(file)
            if not inside:
                raise ValueError(
                    f"files: there are no images in {str(file)!r}; known suffixes: "
                    f"{', '.join(SUFFIXES)}."
                )
            if others:
                warnings.warn(
                    f"{file}: {len(others)} of its files are not read "
                    f"({some([one.name for one in others])})",
                    stacklevel=4,
                )
            found += inside
        return Microstructures(found, tables=tables, log=False, **options)

    def hint(self, lacking: Sequence[str]) -> str:
        return (
            "give a table with these columns for each image (--tables)"
            if lacking
            else "give the same columns"
        )

    def names(self, dataset: Any, place: str, file: Path, text: str) -> Names:
        return Names(["file"], [[graph.file] for graph in dataset], list(range(len(dataset))))


READER = MicrostructureReader()
