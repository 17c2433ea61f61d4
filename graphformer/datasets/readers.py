"""How a model's graphs were made, so that new files become graphs in the same way."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Reader
from graphformer.datasets.store.source import Source

DOMAINS = {
    "microstructure": "microstructures",
    "polymer": "polymers",
    "protein": "proteins",
    "crystal": "crystals",
}
"""The folder of each domain, by the name that saved models have for it; its ``reader`` is imported
on first use.
"""


def reader(name: str) -> Reader:
    """The reader of a domain."""
    return importlib.import_module(f"graphformer.datasets.{DOMAINS[name]}.reader").READER


def sources() -> list[Source]:
    """All that ``graphformer train-graphs`` can learn from."""
    return [source for name in DOMAINS for source in reader(name).sources]


def featuriser_of(dataset: Any) -> dict[str, Any]:
    """What it takes to make such graphs from files, as JSON holds it; ``{}`` for data sets that
    come from no files of one's own.

    ``reader`` (``"microstructure"``: images, ``"polymer"``: a CSV of texts, ``"protein"`` and
    ``"crystal"``: structures), its ``options``, and the names of the columns of ``x``,
    ``edge_attr`` and ``y``; ``classes`` where ``y`` is a class. A part of a data set tells the same
    as the whole.
    """
    for name in DOMAINS:
        options = reader(name).options_of(dataset)
        if options is None:
            continue
        columns = ("node_names", "edge_names", "target_names")
        told = {"reader": name, "options": options}
        told |= {column: list(getattr(dataset, column)) for column in columns}
        classes = reader(name).classes_of(dataset)
        return {**told, "classes": classes} if classes else told
    return {}


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
        files: images, PDB and mmCIF files, or crystals in CIF and JSON, and folders of them; or
            one CSV file of polymers.
        tables: properties of the grains of images, as for
            :class:`~graphformer.datasets.Microstructures`.
        text: the column of the CSV that holds the polymers; by default the one of the training
            file.

    Raises:
        ValueError: a model that does not tell how its graphs were made, files of which none can be
            read, or other columns than it was trained on; the error names those that lack.
    """
    if featuriser.get("reader") not in DOMAINS:
        raise ValueError(
            "the model does not tell how its graphs are made from files; make them yourself and "
            "call its predict."
        )
    domain, options = reader(featuriser["reader"]), dict(featuriser.get("options", {}))
    domain.refuse(tables, text)
    if domain.skips:
        dataset = _quiet(domain, options, files, tables, text)
    else:
        dataset = domain.graphs(options, files, tables, text)
    wanted, found = list(featuriser["node_names"]), list(getattr(dataset, "node_names", ()))
    if wanted != found:
        lacking = [name for name in wanted if name not in found]
        strange = [name for name in found if name not in wanted]
        told = [f"lacking: {', '.join(lacking)}"] * bool(lacking)
        told += [f"not known to the model: {', '.join(strange)}"] * bool(strange)
        raise ValueError(
            f"{files[0]}: the {domain.nodes} have other properties than the model's "
            f"({'; '.join(told) or 'another order'}); {domain.hint(lacking)}."
        )
    return dataset


def _quiet(
    domain: Reader,
    options: dict[str, Any],
    files: Sequence[str | Path],
    tables: Any,
    text: str | None,
) -> GraphDataset:
    """Without the warning of what was left out: ``skipped`` has it, in full."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            dataset = domain.graphs(options, files, tables, text)
        except ValueError as error:
            if not warned:
                raise
            raise ValueError(
                f"{files[0]}: nothing can be read ({'; '.join(str(one.message) for one in warned)})"
            ) from error
    left_out = f"{type(dataset).__name__}: {len(dataset.skipped)} left out"
    for one in warned:
        if not str(one.message).startswith(left_out):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return dataset
