"""What ``graphformer train-graphs`` can learn from, as ``--dataset`` names it."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from graphformer.datasets import GraphDataset
from graphformer.datasets.readers import sources
from graphformer.datasets.store.source import Source


def source_of(dataset: str) -> Source:
    """Which kind of data ``--dataset`` names.

    Raises:
        ValueError: it is none of them, or several.
    """
    known, path = sources(), Path(dataset)
    *first, last = (source.give for source in known)
    give = f"give {', '.join(first)}, or {last}."
    if not dataset:
        raise ValueError(f"--dataset is empty; {give}")
    named = [source for source in known if source.word == dataset]
    if not named and not path.exists():
        raise ValueError(f"--dataset: there is no folder or file {dataset!r}; {give}")
    found = named or [source for source in known if source.holds(path)]
    if len(found) != 1:
        holds = f"both {' and '.join(source.files[0] for source in found)}; keep them apart"
        if not found:
            holds = f"neither {' nor '.join(one.files[0] for one in known if one.files[0])}"
        named_files = [one.files for one in known if one.files[1]]
        suffixes = "; ".join(f"{name}: {some}" if name else some for name, some in named_files)
        words = " or ".join(source.word for source in known if source.word)
        raise ValueError(f"--dataset: {dataset!r} has {holds}; known: {suffixes}; or {words}.")
    return found[0]


def refuse_foreign(source: Source, given: Collection[str], dataset: str) -> None:
    """ValueError for an option that was given and belongs to another kind of data."""
    for owner in sources():
        for name in owner.options:
            if name in given and name not in source.options:
                raise ValueError(
                    f"--{name.replace('_', '-')} is for {owner.kind}, and --dataset {dataset!r} is "
                    f"of {source.kind}; leave it out."
                )


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
