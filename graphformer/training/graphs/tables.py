"""Predictions as a table: a row an image, a polymer or a residue, named as its file names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from graphformer.datasets.readers import DOMAINS, graphs_of_files, reader
from graphformer.datasets.store.reader import Names
from graphformer.training.graphs.model import GraphModel


@dataclass(frozen=True)
class PredictionTable:
    """What a model says of files.

    Attributes:
        columns: names of the columns: first those that tell what a row is, then the file's own,
            then the predictions.
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
            Their own columns are kept as they are, before the predictions. A column of ours whose
            name one of them has is called ``... (predicted)`` or ``... (source)``, which is told in
            ``notes``.
        max_nodes: the budget of a batch; changes no result.

    Raises:
        ValueError: a model that predicts something else than a property of images, polymers or
            proteins, or of each residue; and as for :func:`graphs_of_files`.
    """
    name = model.featuriser.get("reader")
    places = {target.place for target in model.net.targets.values()}
    known = reader(name).places if name in DOMAINS else {"graph"}
    if len(places) > 1 or not places <= known:
        raise ValueError(
            f"the model predicts for {', '.join(sorted(places))}s; load it in Python and call its "
            "predict."
        )
    (place,) = places
    parts = [[file] for file in files] if name in DOMAINS and reader(name).one_file else [files]
    return _joined([_part(model, part, tables, text, place, max_nodes) for part in parts])


class _Part(NamedTuple):
    """The predictions of one table, or of all files that are read together."""

    names: Names
    columns: list[str]
    values: list[list[Any]]


def _part(
    model: GraphModel,
    files: Sequence[str | Path],
    tables: Any,
    text: str | None,
    place: str,
    max_nodes: int,
) -> _Part:
    featuriser = model.featuriser
    dataset = graphs_of_files(featuriser, files, tables, text)
    columns, values = _predictions(model, dataset, max_nodes)
    column = text or featuriser["options"].get("text", "")
    names = reader(featuriser["reader"]).names(dataset, place, Path(files[0]), column)
    return _Part(names, columns, values)


def _joined(parts: Sequence[_Part]) -> PredictionTable:
    """One table under another: what tells which row it is, the files' own columns, predictions."""
    given = list(dict.fromkeys(name for part in parts for name in part.names.given))
    places, columns = parts[0].names.columns, parts[0].columns
    renamed = {
        **_apart(places, {*given, *columns}, "source"),
        **_apart(columns, {*given, *places}, "predicted"),
    }
    rows = [
        [
            *row,
            *(dict(zip(part.names.given, own, strict=True)).get(name, "") for name in given),
            *([""] * len(columns) if number is None else part.values[number]),
        ]
        for part in parts
        for row, number, own in zip(
            part.names.rows,
            part.names.prediction,
            part.names.cells or [[] for _ in part.names.rows],
            strict=True,
        )
    ]
    told = [
        f"a column is called {name!r} already; ours is {new!r}"
        for name, new in renamed.items()
        if name != new
    ]
    return PredictionTable(
        [renamed[one] for one in places] + given + [renamed[one] for one in columns],
        rows,
        [one for part in parts for one in part.names.problems],
        sum(part.names.prediction.count(None) for part in parts),
        [*told, *(one for part in parts for one in part.names.notes)],
    )


def _apart(names: Sequence[str], taken: set[str], what: str) -> dict[str, str]:
    """A name for each of these columns that is not taken."""
    found: dict[str, str] = {}
    for name in names:
        new, number = name, 1
        while new in taken or new in found.values():
            new = f"{name} ({what})" if number == 1 else f"{name} ({what} {number})"
            number += 1
        found[name] = new
    return found


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
