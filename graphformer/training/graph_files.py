"""How a model's graphs were made, so that new files become graphs in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets import Microstructures, PolycrystalDataset


def featuriser_of(dataset: Any) -> dict[str, Any]:
    """What it takes to make such graphs from label images, as JSON holds it; ``{}`` for data sets of other kinds.

    ``kind`` (``"grains"`` or ``"phases"``), the options of :class:`~graphformer.datasets.Microstructures`, and the names of the columns
    of ``x``, ``edge_attr`` and ``y``. A part of a data set tells the same as the whole.
    """
    if isinstance(dataset, PolycrystalDataset):
        # Lengths are relative to the mean grain: the edge of a voxel is of no account.
        options: dict[str, Any] = {"periodic": True, "relative": True, "directions": bool(dataset.recipe.directions)}
        options |= {"kind": "grains", "phases": [0, 1], "angles": {}, "spacing": 1.0, "ignore": []}
    elif isinstance(dataset, Microstructures):
        spacing = dataset.options["spacing"]
        options = {**dataset.options, "kind": dataset.kind, "phases": [int(p) for p in dataset.phases], "angles": dataset.angles}
        options["spacing"] = float(spacing) if isinstance(spacing, int | float) else [float(s) for s in spacing]
        options["ignore"] = [int(label) for label in dataset.options["ignore"]]
    else:
        return {}
    names = {name: list(getattr(dataset, name)) for name in ("node_names", "edge_names", "target_names")}
    return {"reader": "microstructure", "options": options, **names}


def graphs_of_files(
    featuriser: dict[str, Any], files: Sequence[str | Path], tables: str | Path | Sequence[str | Path] | None = None
) -> Microstructures:
    """The graphs of label images, made as those the model was trained on.

    Args:
        featuriser: of the model, see :func:`featuriser_of`.
        files: images.
        tables: properties of the grains, as for :class:`~graphformer.datasets.Microstructures`.

    Raises:
        ValueError: a model that does not tell how its graphs were made, files that cannot be read, or other columns than it was
            trained on; the error names those that lack.
    """
    if featuriser.get("reader") != "microstructure":
        raise ValueError("the model does not tell how its graphs are made from files; make them yourself and call its predict.")
    options = dict(featuriser["options"])
    if tables is None:
        options["angles"] = {}  # they are columns of tables; that they lack is told below
    dataset = Microstructures(list(files), tables=tables, log=False, **options)
    wanted, found = featuriser["node_names"], list(dataset.node_names)
    if wanted != found:
        lacking, strange = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
        told = [f"lacking: {', '.join(lacking)}"] * bool(lacking) + [f"not known to the model: {', '.join(strange)}"] * bool(strange)
        hint = "give a table with these columns for each image (--tables)" if lacking else "give the same columns"
        raise ValueError(f"{files[0]}: the grains have other properties than the model's ({'; '.join(told) or 'another order'}); {hint}.")
    return dataset
