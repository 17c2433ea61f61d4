"""Files of crystals, CIF and pymatgen's JSON, as graphs of atoms with their periodic neighbours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.crystals.cif import read_cif
from graphformer.datasets.crystals.crystal import CLOSEST, Crystal, crystal_graph, edge_names
from graphformer.datasets.crystals.elements import ELEMENT_NAMES
from graphformer.datasets.crystals.files import KNOWN_SUFFIXES, crystal_kind
from graphformer.datasets.crystals.pymatgen_json import read_json
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.keyed import targets_of
from graphformer.datasets.store.reading import (
    UnreadableStructure,
    checksum,
    content,
    find_files,
    text_of,
)
from graphformer.datasets.store.tables import some
from graphformer.errors import number, strict_flags, whole


class CrystalStructures(GraphDataset):
    """CIF files and pymatgen's JSON, or folders of them, as graphs, see
    :func:`~graphformer.datasets.crystal_graph`.

    ``node_names``, ``edge_names`` and ``target_names`` name the columns of ``x``, ``edge_attr`` and
    ``y``; ``name`` is the file, with ``#2`` for its second structure.

    - CIF (by gemmi): each block with fractional coordinates. Symmetry is expanded; an atom on a
      special position is there once. Blocks without coordinates are told in ``notes``.
    - JSON: ``Structure.as_dict()``, alone, in a list, or as the ``structure`` of an entry. Charge,
      oxidation states and properties are not read, which is told in ``notes``.
    - Left out, each named with its reason in ``skipped`` and counted in a warning: sites that are
      partly occupied or disordered, dummies, unknown elements, coordinates that are not known, no
      cell or one without volume, symmetry that cannot be expanded, atoms closer than 0.5 Å.
    - In ``notes``, with a warning: CIF that tells no symmetry (P 1), or tells two, or one that its
      cell does not have, or a group with two origins and not which; a formula or ``Z`` that is not
      that of the atoms; attached hydrogens; a modulation; deuterium, which is read as hydrogen;
      atoms without a neighbour within ``cutoff``, or with fewer than ``neighbors``; files in the
      folders that are neither.

    Args:
        root: folder of the cache; None keeps the graphs in memory alone.
        folder: the folder; files in folders inside it count too. Or one file, or a list of files
            and folders. Files are known by name and checksum: a changed one is read again.
        cutoff, neighbors, gaussians: as in :func:`~graphformer.datasets.crystal_graph`.
        targets: ``y``: a CSV with a column ``file`` (name, stem or path) and a column a target, or
            a mapping from these to a number or to several; an empty cell is a missing label, NaN.
            Rows of no file, and files of no row, are told in a warning. Each file must then hold
            one structure.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: no such folder or file, a file of another kind, no files, or none that could be
            read; targets that belong to no file; an argument out of range.
        MissingExtra: a CIF file, and gemmi is not installed.
    """

    version: ClassVar[int] = 1
    node_names: tuple[str, ...] = ELEMENT_NAMES

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        folder: str | Path | Sequence[str | Path],
        *,
        cutoff: float = 5.0,
        neighbors: int | None = None,
        gaussians: int = 32,
        targets: str | Path | Mapping[str, float | Sequence[float]] | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        number("cutoff", cutoff, above=CLOSEST)
        whole("gaussians", gaussians, 2)
        if neighbors is not None:
            whole("neighbors", neighbors)
        self.folder, self.cutoff, self.neighbors, self.gaussians = (
            folder,
            cutoff,
            neighbors,
            gaussians,
        )
        self.files, others = find_files(
            folder, lambda path: bool(crystal_kind(path)), KNOWN_SUFFIXES
        )
        self.edge_names = edge_names(cutoff, gaussians)
        paths = list(self.files.values())
        self.target_names, values = targets_of(targets, paths, missing=True)
        self._targets = None if values is None else dict(zip(self.files, values, strict=True))
        settings = {
            "files": {name: checksum(path) for name, path in self.files.items()},
            "cutoff": cutoff,
            "neighbors": neighbors,
            "gaussians": gaussians,
            "targets": [self.target_names, values],
            "dtype": str(torch.get_default_dtype()),
        }
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)
        if isinstance(targets, str | Path):
            folders = [folder] if isinstance(folder, str | Path) else folder
            tables = {os.path.relpath(targets, one).replace(os.sep, "/") for one in folders}
            others = [name for name in others if name not in tables]
        if others:
            self.notes.append(
                f"{len(others)} files that are no crystals by their names are not read: "
                f"{some(others)}"
            )
            warnings.warn(f"CrystalStructures: {self.notes[-1]}", stacklevel=2)

    def build(self) -> Iterator[Data]:
        """A graph a structure, by the names of the files."""
        for name, path in self.progress(self.files.items(), len(self.files)):
            try:
                text = text_of(content(path))
                read = read_cif(text) if crystal_kind(path) == "cif" else read_json(text)
            except UnreadableStructure as error:
                self.skip(f"{name}: {error}")
                continue
            for told in read.notes:
                self.note(f"{name}: {told}")
            if self._targets is not None and len(read) > 1:
                self.skip(
                    f"{name}: holds {len(read)} structures, and targets name files: write a file "
                    "for each"
                )
                continue
            for place, found in enumerate(read, start=1):
                called = name if place == 1 else f"{name}#{place}"
                if isinstance(found, str):
                    self.skip(f"{called}: {found}")
                elif (data := self._graph(called, name, found)) is not None:
                    yield data

    def _graph(self, called: str, file: str, crystal: Crystal) -> Data | None:
        y = None if self._targets is None else torch.tensor([self._targets[file]])
        options: dict[str, Any] = {"cutoff": self.cutoff, "neighbors": self.neighbors}
        try:
            data = crystal_graph(crystal, **options, gaussians=self.gaussians, y=y)
        except ValueError as error:
            self.skip(f"{called}: {error}")
            return None
        data.name = called
        degree = np.bincount(data.edge_index[1].numpy(), minlength=data.num_nodes)
        wanted = self.neighbors or 1
        if short := int((degree < wanted).sum()):
            told = f"fewer than {wanted} neighbours" if wanted > 1 else "no neighbour"
            self.note(f"{called}: {short} of {data.num_nodes} atoms have {told} in {self.cutoff} Å")
        return data
