"""How a model's graphs were made, so that new files become graphs in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets import (
    CopolymerGraphs,
    GraphDataset,
    Microstructures,
    PolycrystalDataset,
    PolymerGraphs,
    ProteinStructures,
)
from graphformer.datasets.microstructures.images import SUFFIXES, image_files
from graphformer.datasets.proteins.protein import STATES
from graphformer.datasets.store.tables import read_rows, some


def featuriser_of(dataset: Any) -> dict[str, Any]:
    """What it takes to make such graphs from files, as JSON holds it; ``{}`` for data sets that
    come from no files of one's own.

    ``reader`` (``"microstructure"``: images, ``"polymer"``: a CSV of texts, ``"protein"``:
    structures), its ``options``, and the names of the columns of ``x``, ``edge_attr`` and ``y``;
    ``classes`` where ``y`` is a class. A part of a data set tells the same as the whole.
    """
    reader, classes = "microstructure", []
    if isinstance(dataset, PolycrystalDataset):
        # Lengths are relative to the mean grain: the edge of a voxel is of no account.
        options: dict[str, Any] = {
            "periodic": True,
            "relative": True,
            "directions": bool(dataset.recipe.directions),
        }
        options |= {"kind": "grains", "phases": [0, 1], "angles": {}, "spacing": 1.0, "ignore": []}
    elif isinstance(dataset, Microstructures):
        spacing = dataset.options["spacing"]
        options = {
            **dataset.options,
            "kind": dataset.kind,
            "phases": [int(p) for p in dataset.phases],
            "angles": dataset.angles,
        }
        options["spacing"] = (
            float(spacing) if isinstance(spacing, int | float) else [float(s) for s in spacing]
        )
        options["ignore"] = [int(label) for label in dataset.options["ignore"]]
    elif isinstance(dataset, PolymerGraphs | CopolymerGraphs):
        reader, options = (
            "polymer",
            {"text": dataset.text_column, "features": getattr(dataset, "features", "full")},
        )
    elif isinstance(dataset, ProteinStructures):
        reader, options = (
            "protein",
            {
                "cutoff": float(dataset.cutoff),
                "features": list(dataset.features),
                "models": dataset.models,
            },
        )
        classes = list(STATES) if dataset.target == "secondary" else []
    else:
        return {}
    names = {
        name: list(getattr(dataset, name)) for name in ("node_names", "edge_names", "target_names")
    }
    return {
        "reader": reader,
        "options": options,
        **names,
        **({"classes": classes} if classes else {}),
    }


def graphs_of_files(
    featuriser: dict[str, Any],
    files: Sequence[str | Path],
    tables: str | Path | Sequence[str | Path] | None = None,
    text: str | None = None,
) -> GraphDataset:
    """The graphs of files, made as those the model was trained on. What could not be read is in
    ``skipped``; images must all be readable.

    Args:
        featuriser: of the model, see :func:`featuriser_of`.
        files: images, or PDB and mmCIF files, and folders of them; or one CSV file of polymers.
        tables: properties of the grains of images, as for
            :class:`~graphformer.datasets.Microstructures`.
        text: the column of the CSV that holds the polymers; by default the one of the training
            file.

    Raises:
        ValueError: a model that does not tell how its graphs were made, files of which none can be
            read, or other columns than it was trained on; the error names those that lack.
    """
    reader, options = featuriser.get("reader"), dict(featuriser.get("options", {}))
    if reader not in ("microstructure", "polymer", "protein"):
        raise ValueError(
            "the model does not tell how its graphs are made from files; make them yourself and "
            "call its predict."
        )
    if tables is not None and reader != "microstructure":
        raise ValueError(
            f"tables are for grains of images, and the model reads {reader}s; leave them out."
        )
    if text is not None and reader != "polymer":
        raise ValueError(
            f"text names the column of a CSV of polymers, and the model reads {reader}s; leave it "
            "out."
        )
    dataset: GraphDataset
    if reader == "microstructure":
        dataset = _images(featuriser, options, files, tables)
    else:
        with warnings.catch_warnings(record=True) as warned:  # `skipped` has it, in full
            warnings.simplefilter("always")
            try:
                if reader == "polymer":
                    # A model that does not tell its features was trained before there was a choice.
                    dataset = _polymers(
                        files, text or options["text"], options.get("features", "basic")
                    )
                else:
                    dataset = ProteinStructures(
                        None, list(files), target=None, log=False, **options
                    )
            except ValueError as error:
                if not warned:
                    raise
                raise ValueError(
                    f"{files[0]}: nothing can be read "
                    f"({'; '.join(str(one.message) for one in warned)})"
                ) from error
        for one in warned:
            if not str(one.message).startswith(
                f"{type(dataset).__name__}: {len(dataset.skipped)} left out"
            ):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    wanted, found = list(featuriser["node_names"]), list(getattr(dataset, "node_names", ()))
    if wanted != found:
        lacking, strange = (
            [n for n in wanted if n not in found],
            [n for n in found if n not in wanted],
        )
        told = [f"lacking: {', '.join(lacking)}"] * bool(lacking) + [
            f"not known to the model: {', '.join(strange)}"
        ] * bool(strange)
        hint = (
            "give a table with these columns for each image (--tables)"
            if lacking
            else "give the same columns"
        )
        if reader != "microstructure":
            hint = "the model is of another version of graphformer: train it again"
        nodes = {"microstructure": "grains", "polymer": "atoms", "protein": "residues"}[reader]
        what = "; ".join(told) or "another order"
        raise ValueError(
            f"{files[0]}: the {nodes} have other properties than the model's ({what}); {hint}."
        )
    return dataset


def _images(
    featuriser: dict[str, Any], options: dict[str, Any], files: Sequence[str | Path], tables: Any
) -> Microstructures:
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


def _polymers(files: Sequence[str | Path], column: str, features: str) -> PolymerGraphs:
    if len(files) != 1:
        raise ValueError(
            f"files: polymers are read from one CSV file at a time, got {len(files)} files."
        )
    if not Path(files[0]).is_file():
        raise ValueError(f"files: there is no file {str(files[0])!r}; give a CSV file of polymers.")
    header, rows = read_rows(files[0])
    if column not in header:
        known = ", ".join(header) or "none"
        raise ValueError(
            f"{files[0]} has no column {column!r} of polymers; name its column (--smiles-column), "
            f"one of: {known}."
        )
    if not rows:
        raise ValueError(f"{files[0]} has no rows; give a polymer a row.")
    return PolymerGraphs(None, file=files[0], text=column, targets=(), features=features, log=False)
