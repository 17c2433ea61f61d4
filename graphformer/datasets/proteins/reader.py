"""Structures of proteins, read as graphs of residues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.proteins.atom_table import UNNUMBERED
from graphformer.datasets.proteins.protein import AMINO_ACIDS, STATES
from graphformer.datasets.proteins.residue_graph import split_names
from graphformer.datasets.proteins.structures import ProteinStructures
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reader import Names, Reader


class ProteinReader(Reader):
    """PDB and mmCIF files, and folders of them."""

    name, nodes = "protein", "residues"
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
