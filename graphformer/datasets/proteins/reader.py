"""Structures of proteins, read as graphs of residues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.proteins.atom_table import UNNUMBERED
from graphformer.datasets.proteins.files import KNOWN_SUFFIXES, structure_kind
from graphformer.datasets.proteins.protein import AMINO_ACIDS, STATES
from graphformer.datasets.proteins.residue_graph import split_names
from graphformer.datasets.proteins.structures import ProteinStructures
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Names, Reader
from graphformer.datasets.store.reading import is_core_cif, is_hidden
from graphformer.datasets.store.source import Opened, Source, listed


class Proteins(Source):
    """A structure, or a folder of them."""

    kind, give = "proteins", "a folder of PDB and mmCIF files"
    files = ("structures", KNOWN_SUFFIXES)
    options = ("residue_target", "features", "cutoff")

    def holds(self, path: Path) -> bool:
        if path.is_file():
            return _is_protein(path)
        return any(
            _is_protein(file)
            for file in path.rglob("*")
            if file.is_file() and not is_hidden(file.relative_to(path))
        )

    def open(
        self, dataset: str, cache: Path | None, values: Mapping[str, Any], log: bool
    ) -> Opened:
        read, target = listed(values["features"]), values["residue_target"]
        told = {"exposure": "sasa", "sasa": "exposure"}.get(target)
        for name in read:
            if name in (target, told):
                raise ValueError(
                    f"--features: {name} would tell the model the {target} that it is to predict; "
                    "leave it out."
                )
        if target == "secondary" and "group_0" in values["levels"]:
            raise ValueError(
                "--levels: group_0 is made of the secondary structure, which is to be predicted; "
                "leave it out."
            )
        cutoff = 8.0 if values["cutoff"] is None else values["cutoff"]
        made = ProteinStructures(
            cache, dataset, target=target, features=read, cutoff=cutoff, log=log
        )
        several = (
            {"out_dim": len(STATES), "task": "classification"}
            if target == "secondary"
            else {"out_dim": 1}
        )
        named = {"features": list(read), "targets": [target]}
        files = [Path(path) for path in made.files.values()]
        return Opened(made, {"target": "node", **several}, "NEW.pdb", files, named)


def _is_protein(path: Path) -> bool:
    """By its name; ``.cif`` is the suffix of small crystals, too."""
    return structure_kind(path) is not None and not is_core_cif(path)


class ProteinReader(Reader):
    """PDB and mmCIF files, and folders of them."""

    name, nodes = "protein", "residues"
    sources = (Proteins(),)
    places = frozenset({"graph", "node"})

    def options_of(self, dataset: Any) -> dict[str, Any] | None:
        if not isinstance(dataset, ProteinStructures):
            return None
        return {
            "cutoff": float(dataset.cutoff),
            "features": list(dataset.features),
            "models": dataset.models,
        }

    def classes_of(self, dataset: Any) -> list[str]:
        return list(STATES) if dataset.target == "secondary" else []

    def graphs(
        self, options: dict[str, Any], files: Sequence[str | Path], tables: Any, text: str | None
    ) -> GraphDataset:
        return ProteinStructures(None, list(files), target=None, log=False, **options)

    def names(self, dataset: Any, place: str, file: Path, text: str) -> Names:
        if place == "graph":
            return super().names(dataset, place, file, text)
        rows = [row for graph in dataset for row in residues(graph)]
        return Names(
            ["file", "chain", "residue", "amino_acid"],
            rows,
            list(range(len(rows))),
            problems=dataset.skipped,
            notes=dataset.notes,
        )


def residues(graph: Any) -> list[list[Any]]:
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


READER = ProteinReader()
