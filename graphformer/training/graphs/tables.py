"""Predictions as a table: a row an image, a polymer or a residue, named as its file names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphformer.datasets.readers import DOMAINS, graphs_of_files, reader
from graphformer.datasets.store.reader import Names
from graphformer.training.graphs.model import GraphModel


class Predicted(NamedTuple):
    """The graphs of one table of polymers, or of all other files.

    Attributes:
        files: as they were given. dataset: their graphs.
        names: what the rows of the table are called.
        columns, values: of the predictions, row by row: graphs, or the nodes of all.
        means: how many of the columns are predictions; the others are their standard deviations.
    """

    files: Sequence[str | Path]
    dataset: Any
    names: Names
    columns: list[str]
    values: list[list[Any]]
    means: int


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
        parts: what the predictions are of, file by file for tables of polymers; else all files are
            one part.
    """

    columns: list[str]
    rows: list[list[Any]]
    problems: list[str]
    without: int = 0
    notes: list[str] = field(default_factory=list)
    parts: list[Predicted] = field(default_factory=list, repr=False, compare=False)


def prediction_table(
    model: GraphModel,
    files: Sequence[str | Path],
    tables: str | Path | Sequence[str | Path] | None = None,
    text: str | None = None,
    max_nodes: int = 4096,
    *,
    samples: int = 0,
    ensemble: Sequence[GraphModel] = (),
) -> PredictionTable:
    """Predict what is in files: label images, CSV files of polymers, PDB and mmCIF files.

    Args:
        model: of :func:`load_graph_model`; its featuriser tells what files it reads.
        files, tables, text: as for :func:`graphs_of_files`; of CSV files there may be several.
            Their own columns are kept as they are, before the predictions. A column of ours whose
            name one of them has is called ``... (predicted)`` or ``... (source)``, which is told in
            ``notes``.
        max_nodes: the budget of a batch; changes no result.
        samples: where given, so many passes with dropout (:meth:`GraphModel.sample`), at least 2.
        ensemble: further models of the same kind of graphs and targets.

    With ``samples`` or ``ensemble`` the predictions are the means over all passes of all models (of
    classes: of their probabilities), and ``<name>_std`` behind them are the standard deviations,
    with ``n - 1`` in the denominator.

    Raises:
        ValueError: ``samples`` of a model without dropout, or an ensemble of unlike models.
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
    for number, other in enumerate(ensemble):
        _check_alike(model, other, number)
    (place,) = places
    parts = [[file] for file in files] if name in DOMAINS and reader(name).one_file else [files]
    return _joined(
        [_part([model, *ensemble], part, tables, text, place, max_nodes, samples) for part in parts]
    )


def _part(
    models: Sequence[GraphModel],
    files: Sequence[str | Path],
    tables: Any,
    text: str | None,
    place: str,
    max_nodes: int,
    samples: int,
) -> Predicted:
    featuriser = models[0].featuriser
    dataset = graphs_of_files(featuriser, files, tables, text)
    columns, values, means = _predictions(models, dataset, max_nodes, samples)
    column = text or featuriser["options"].get("text", "")
    names = reader(featuriser["reader"]).names(dataset, place, Path(files[0]), column)
    return Predicted(files, dataset, names, columns, values, means)


def _joined(parts: Sequence[Predicted]) -> PredictionTable:
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
        list(parts),
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


def _check_alike(model: GraphModel, other: GraphModel, number: int) -> None:
    """ValueError for a model that cannot answer for the same graphs and targets."""
    for key in ("reader", "node_names", "edge_names", "target_names", "classes", "options"):
        one, two = (each.featuriser.get(key) for each in (model, other))
        if key == "options":  # the name of the column is of no account
            one, two = ({**(each or {}), "text": None} for each in (one, two))
        if one != two:
            raise ValueError(
                f"ensemble[{number}]: its {key} are {two}, and those of the first model {one}; "
                "give models that were trained on the same kind of data and targets."
            )
    ways = [
        {name: (one.place, one.task, one.out_dim) for name, one in each.net.targets.items()}
        for each in (model, other)
    ]
    if ways[0] != ways[1]:
        raise ValueError(
            f"ensemble[{number}]: its targets are {ways[1]}, and those of the first model "
            f"{ways[0]}; give models of the same targets."
        )


def _passes(
    models: Sequence[GraphModel], dataset: Any, max_nodes: int, samples: int
) -> dict[str, Tensor]:
    """``[passes, rows, out_dim]`` of each target, over all passes of all models."""
    made = [
        one.sample(dataset, samples, max_nodes) if samples else one.predict(dataset, max_nodes)
        for one in models
    ]
    parts = [{"y": one} if isinstance(one, Tensor) else one for one in made]
    join = torch.cat if samples else torch.stack
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def _predictions(
    models: Sequence[GraphModel], dataset: Any, max_nodes: int, samples: int
) -> tuple[list[str], list[list[Any]], int]:
    """Names of columns, and a row for each graph or node; a class is its letter and the
    probabilities of all. Behind them the standard deviations where there are several passes, and
    how many columns stand before these.
    """
    found, featuriser = _passes(models, dataset, max_nodes, samples), models[0].featuriser
    classes, named = featuriser.get("classes", []), featuriser["target_names"]
    single = models[0].net.single
    columns: list[str] = []
    said: list[list[Any]] = []
    if single and classes and found["y"].shape[-1] == len(classes):
        found = {"y": found["y"].softmax(-1)}
        said = [[classes[place]] for place in found["y"].mean(0).argmax(-1).tolist()]
        names = [f"p_{one}" for one in classes]
        columns = list(named)
    else:
        names = []
        for name, value in found.items():
            fits = single and len(named) == value.shape[-1]
            names += named if fits else [f"{name}_{i}" for i in range(value.shape[-1])]
    joined = torch.cat(list(found.values()), -1)
    columns += names
    values, means = joined.mean(0), len(columns)
    if len(joined) > 1:
        values = torch.cat((values, joined.std(0)), -1)
        columns += [f"{one}_std" for one in names]
    rows = values.tolist()
    said = said or [[] for _ in rows]
    return columns, [[*first, *row] for first, row in zip(said, rows, strict=True)], means
