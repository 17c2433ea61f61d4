"""Predictions as a table: a row an image, a polymer or a residue, named as its file names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from graphformer.datasets.proteins.atom_table import UNNUMBERED
from graphformer.datasets.proteins.protein import AMINO_ACIDS
from graphformer.datasets.proteins.residue_graph import split_names
from graphformer.datasets.store.tables import read_rows
from graphformer.training.graphs.files import graphs_of_files
from graphformer.training.graphs.model import GraphModel


@dataclass(frozen=True)
class PredictionTable:
    """What a model says of files.

    Attributes:
        columns: names of the columns: first those that tell what a row is, then the predictions.
        rows: texts, and numbers in the unit of the labels.
        problems: what could not be read and why, a text each. A polymer like this has its row, with
            empty predictions.
        without: how many rows have no prediction.
        notes: what was read with a doubt, a text each.
    """

    columns: list[str]
    rows: list[list[Any]]
    problems: list[str]
    without: int = 0
    notes: list[str] = field(default_factory=list)


def prediction_table(
    model: GraphModel,
    files: Sequence[str | Path],
    tables: str | Path | Sequence[str | Path] | None = None,
    text: str | None = None,
    max_nodes: int = 4096,
) -> PredictionTable:
    """Predict what is in files: label images, CSV files of polymers, PDB and mmCIF files.

    Args:
        model: of :func:`load_graph_model`; its featuriser tells what files it reads.
        files, tables, text: as for :func:`graphs_of_files`; of CSV files there may be several.
            Their other columns stand behind the predictions, with ``(given)`` behind a name that a
            prediction has.
        max_nodes: the budget of a batch; changes no result.

    Raises:
        ValueError: a model that predicts something else than a property of images, polymers or
            proteins, or of each residue; and as for :func:`graphs_of_files`.
    """
    reader = model.featuriser.get("reader")
    places = {target.place for target in model.net.targets.values()}
    if len(places) > 1 or not places <= ({"graph", "node"} if reader == "protein" else {"graph"}):
        raise ValueError(
            f"the model predicts for {', '.join(sorted(places))}s; load it in Python and call its "
            "predict."
        )
    if reader == "polymer":
        return _joined([_polymers(model, Path(file), text, max_nodes) for file in files])
    dataset = graphs_of_files(model.featuriser, files, tables, text)
    columns, values = _predictions(model, dataset, max_nodes)
    if reader == "microstructure":
        return PredictionTable(
            ["file", *columns], [[g.file, *row] for g, row in zip(dataset, values, strict=True)], []
        )
    if places == {"graph"}:
        named = [[g.name, *row] for g, row in zip(dataset, values, strict=True)]
        return PredictionTable(["file", *columns], named, dataset.skipped, notes=dataset.notes)
    residues = [row for graph in dataset for row in _residues(graph)]
    rows = [[*residue, *row] for residue, row in zip(residues, values, strict=True)]
    return PredictionTable(
        ["file", "chain", "residue", "amino_acid", *columns],
        rows,
        dataset.skipped,
        notes=dataset.notes,
    )


def _polymers(model: GraphModel, file: Path, text: str | None, max_nodes: int) -> PredictionTable:
    """A row for each row of the file, also for those that cannot be read: the polymer, its
    predictions, then the file's other columns.
    """
    dataset = graphs_of_files(model.featuriser, [file], text=text)
    columns, values = _predictions(model, dataset, max_nodes)
    found = dict(zip((int(graph.row) for graph in dataset), values, strict=True))
    header, table = read_rows(file)
    name = (text or model.featuriser["options"]["text"]).strip()
    first = ["file", "row", name, *columns]
    others = [one for one in header if one != name]
    # a measured value beside the predicted one
    given = [f"{one} (given)" if one in first else one for one in others]
    rows = [
        [
            file.name,
            row.number,
            row.cells[name] or "",
            *found.get(row.number, [""] * len(columns)),
            *(row.cells[o] or "" for o in others),
        ]
        for row in table
    ]
    problems = [f"{file}, {told}" for told in dataset.skipped]
    return PredictionTable([*first, *given], rows, problems, len(table) - len(found))


def _joined(parts: Sequence[PredictionTable]) -> PredictionTable:
    """One table under another, with the columns of all."""
    columns = list(dict.fromkeys(name for part in parts for name in part.columns))
    rows = [
        [dict(zip(part.columns, row, strict=True)).get(name, "") for name in columns]
        for part in parts
        for row in part.rows
    ]
    return PredictionTable(
        columns,
        rows,
        [told for part in parts for told in part.problems],
        sum(part.without for part in parts),
    )


def _residues(graph: Any) -> list[list[Any]]:
    """File, chain, number (with its letter, as in 52A) and amino acid of each residue."""
    labels = ["?" if number == UNNUMBERED else str(number) for number in graph.residue.tolist()]
    chains, numbers = (
        split_names(graph.chains),
        zip(labels, split_names(graph.insertion), strict=True),
    )
    amino = graph.x[:, : len(AMINO_ACIDS)].argmax(1).tolist()
    rows = zip(graph.group_1.tolist(), numbers, amino, strict=True)
    return [
        [graph.name, chains[chain], f"{number}{code}", AMINO_ACIDS[letter]]
        for chain, (number, code), letter in rows
    ]


def _predictions(
    model: GraphModel, dataset: Any, max_nodes: int
) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, and a row for each graph or node; a class is its letter and the
    probabilities of all.
    """
    found, classes, named = (
        model.predict(dataset, max_nodes),
        model.featuriser.get("classes", []),
        model.featuriser["target_names"],
    )
    if isinstance(found, Tensor) and classes and found.shape[1] == len(classes):
        chances = found.softmax(-1)
        said = [classes[place] for place in found.argmax(-1).tolist()]
        return [*named, *(f"p_{one}" for one in classes)], [
            [one, *row] for one, row in zip(said, chances.tolist(), strict=True)
        ]
    columns: list[str] = []
    for name, value in ({"y": found} if isinstance(found, Tensor) else found).items():
        fits = isinstance(found, Tensor) and len(named) == value.shape[1]
        columns += named if fits else [f"{name}_{i}" for i in range(value.shape[1])]
    parts = [found] if isinstance(found, Tensor) else list(found.values())
    return columns, [
        [number for part in row for number in part]
        for row in zip(*(part.tolist() for part in parts), strict=True)
    ]
