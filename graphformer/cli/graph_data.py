"""What ``graphformer train-graphs`` can learn from: which kind of data ``--dataset`` names, and the
graphs of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from graphformer.datasets import (
    GraphDataset,
    Microstructures,
    PolycrystalDataset,
    PolymerGraphs,
    ProteinStructures,
)
from graphformer.datasets.microstructures.images import SUFFIXES, image_files
from graphformer.datasets.proteins.files import KNOWN_SUFFIXES, is_hidden, structure_kind
from graphformer.datasets.proteins.protein import STATES
from graphformer.datasets.store.tables import read_rows

_KNOWN = (
    "give polycrystal, a folder of label images, a CSV file of polymers, or a folder of PDB and "
    "mmCIF files."
)
_TABLES = (".csv", ".tsv")
_OWN = {
    "polycrystals": ("graphs", "grains", "dim", "resolution", "law", "contrast"),
    "label images": ("targets", "tables", "kind", "periodic", "relative"),
    "polymers": ("smiles_column", "target_columns"),
    "proteins": ("residue_target", "features", "cutoff"),
}


class Opened(NamedTuple):
    """Graphs, and what the model is to be told of them."""

    dataset: GraphDataset
    target: dict[str, Any]  # arguments of GraphTransformer
    next_files: str  # what predict is called with
    read: list[Path]  # the files that the graphs were made of
    columns: dict[str, Any]  # what was read of them, and what is learned


def kind_of(dataset: str) -> str:
    """Which of the four kinds ``--dataset`` names.

    Raises:
        ValueError: it is none of them.
    """
    if not dataset:
        raise ValueError(f"--dataset is empty; {_KNOWN}")
    path = Path(dataset)
    if dataset == "polycrystal":
        return "polycrystals"
    if path.is_file() and (path.suffix.lower() in _TABLES or structure_kind(path)):
        return "polymers" if path.suffix.lower() in _TABLES else "proteins"
    if not path.exists():
        raise ValueError(f"--dataset: there is no folder or file {dataset!r}; {_KNOWN}")
    images = path.is_dir() and bool(image_files(path)[0])
    proteins = path.is_dir() and any(
        structure_kind(file) and not is_hidden(file.relative_to(path)) for file in path.rglob("*")
    )
    if images == proteins:
        has = (
            "both images and structures; keep them apart"
            if images
            else "neither images nor structures"
        )
        raise ValueError(
            f"--dataset: {dataset!r} has {has}; known: {', '.join(SUFFIXES)}, {KNOWN_SUFFIXES}, a "
            "CSV file, or polycrystal."
        )
    return "label images" if images else "proteins"


def refuse_foreign(kind: str, given: Collection[str], dataset: str) -> None:
    """ValueError for an option that was given and belongs to another kind of data."""
    for owner, names in _OWN.items():
        for name in names:
            if name in given and owner != kind:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for {owner}, and --dataset {dataset!r} is of "
                    f"{kind}; leave it out."
                )


def polycrystals(
    cache: Path | None, graphs: int, grains: str, options: Mapping[str, Any]
) -> Opened:
    made = PolycrystalDataset(cache, graphs, _range(grains), **options)
    names = list(made.target_names)
    return Opened(
        made, _graph_target(made.target_names), "IMAGE.npy --tables FOLDER", [], {"targets": names}
    )


def images(
    folder: str,
    cache: Path | None,
    targets: Path | None,
    tables: Path | None,
    options: Mapping[str, Any],
) -> Opened:
    if targets is None:
        raise ValueError(
            "--targets is needed with a folder of images: a CSV with a column 'file' and a column "
            "a target."
        )
    made = Microstructures(folder, cache, tables=tables, targets=targets, missing=True, **options)
    read = [*made.files, targets, *(made.tables or ())]
    columns = {"file": "file", "properties": list(made.columns), "targets": list(made.target_names)}
    more = " --tables FOLDER" if tables else ""
    return Opened(made, _graph_target(made.target_names), f"IMAGE.npy{more}", read, columns)


def polymers(file: str, cache: Path | None, text: str, targets: str | None, log: bool) -> Opened:
    header, rows = read_rows(file)
    if not rows:
        raise ValueError(
            f"--dataset: {file!r} has no rows; give a CSV with a header, a polymer a row."
        )
    if text not in header:
        raise ValueError(
            f"--smiles-column: {file} has no column {text!r}; its columns: {', '.join(header)}."
        )
    columns = [part.strip() for part in (targets or "").split(",") if part.strip()]
    if not columns:
        others = ", ".join(name for name in header if name != text)
        raise ValueError(
            "--target-columns is needed with a CSV of polymers: what is learned, one or several of "
            f"{others or 'no others'}."
        )
    for name in columns:
        if name not in header:
            raise ValueError(
                f"--target-columns: {file} has no column {name!r}; its columns: "
                f"{', '.join(header)}."
            )
        if columns.count(name) > 1:
            raise ValueError(f"--target-columns: {name!r} is there twice; name each column once.")
    if text in columns:
        raise ValueError(
            f"--target-columns: {text!r} is the column of polymers; name what is learned."
        )
    made = PolymerGraphs(cache, file=file, text=text, targets=columns, log=log)
    named = {"polymer": text, "targets": columns}
    return Opened(made, _graph_target(made.target_names), "NEW.csv", [Path(file)], named)


def proteins(
    folder: str,
    cache: Path | None,
    target: str,
    features: str | None,
    cutoff: float,
    levels: tuple[str, ...],
    log: bool,
) -> Opened:
    read = tuple(part.strip() for part in (features or "").split(",") if part.strip())
    told = {"exposure": "sasa", "sasa": "exposure"}.get(target)
    for name in read:
        if name in (target, told):
            raise ValueError(
                f"--features: {name} would tell the model the {target} that it is to predict; "
                "leave it out."
            )
    if target == "secondary" and "group_0" in levels:
        raise ValueError(
            "--levels: group_0 is made of the secondary structure, which is to be predicted; leave "
            "it out."
        )
    made = ProteinStructures(cache, folder, target=target, features=read, cutoff=cutoff, log=log)
    several = (
        {"out_dim": len(STATES), "task": "classification"}
        if target == "secondary"
        else {"out_dim": 1}
    )
    named = {"features": list(read), "targets": [target]}
    files = [Path(path) for path in made.files.values()]
    return Opened(made, {"target": "node", **several}, "NEW.pdb", files, named)


def labelled(dataset: GraphDataset) -> GraphDataset:
    """The graphs that have a label: one without any would train nothing and test nothing. The
    others are told in a warning.

    Raises:
        ValueError: there is no label at all.
    """
    kept = [i for i in range(len(dataset)) if not bool(dataset[i].y.isnan().all())]
    if not kept:
        raise ValueError(
            f"--dataset: none of the {len(dataset)} graphs has a label; look at the warnings, and "
            "at the columns of targets."
        )
    if len(kept) == len(dataset):
        return dataset
    without = sorted(set(range(len(dataset))) - set(kept))
    names = [name_of(dataset[i], i) for i in without[:5]]
    told = f"{len(without)} of {len(dataset)} graphs have no label and are left out"
    warnings.warn(f"{told} ({', '.join(names)}{', ...' if len(without) > 5 else ''})", stacklevel=2)
    return dataset.index_select(kept)


def name_of(graph: Any, index: int) -> str:
    """What a user calls a graph: its file, its protein, or the row of its table."""
    return graph.get("file") or graph.get("name") or f"row {int(graph.get('row', index + 1))}"


def _graph_target(names: tuple[str, ...]) -> dict[str, Any]:
    return {"target": "graph", "out_dim": len(names)}


def _range(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--grains must be a number or two, as in 20,40, got {text!r}.")
    return int(parts[0]), int(parts[-1])
