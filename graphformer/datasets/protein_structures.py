"""Protein structures, PDB and mmCIF files, as graphs of residues: contacts, backbone, secondary structure, solvent exposure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch_geometric.data import Data

from graphformer.datasets.cache import GraphDataset
from graphformer.datasets.download import sha256
from graphformer.datasets.residues import EDGE_NAMES, EXTRA, NODE_NAMES, UnreadableStructure, graph_of_residues, read_residues
from graphformer.errors import require, require_known

STRUCTURE_SUFFIXES = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif"}
_TARGETS = ("secondary", "exposure", "sasa")
_MODELS = ("first", "all")


class ProteinStructures(GraphDataset):
    """PDB and mmCIF files, or folders of them, as graphs of residues.

    A node is a residue that has a CA atom. Edges, in both directions, join residues whose CA atoms are at most ``cutoff`` apart, in the
    whole structure with all its chains, and neighbours in a chain.

    - ``x``: ``node_names`` names the columns: the amino acid (a modified one counts as its parent, X is all that have none), sine and
      cosine of the backbone's angles phi, psi and omega (both 0 where an atom is missing or the chain is broken), then ``features``.
    - ``edge_attr``: ``edge_names``: distance of the CA atoms in Å; 1 for contacts; 1 where the sender is the residue before and after the
      receiver in the chain; 1 for peptide bonds (C and N at most 2 Å apart; where one of them is missing: CA and CA at most 4.2 Å);
      1 within a chain.
    - ``secondary``: float ``[N]``, 0 helix, 1 strand, 2 coil (the classes of ``ProteinSecondaryStructure``), by P-SEA from CA atoms.
    - ``sasa``: ``[N]``, the surface that water reaches, in Å^2, by Shrake and Rupley with a probe of 1.4 Å, of the chains of protein
      together without ligands and water. ``exposure``: ``sasa`` over the greatest that the amino acid can have (Tien 2013), NaN for X.
    - ``y``: one of these three, for a target of each residue.
    - ``group_0``: the segment of each residue: a run of one class along peptide bonds. ``group_1``: its chain.
    - ``pos``: CA atoms in Å, ``[N, 3]``. ``residue``: the number in the file; ``insertion``: the letters of numbers such as 52A, and
      ``chains``: the names of the chains, both joined by commas; ``name``: the file, with ``#2`` for its second model.

    What files are like: of several models the first, or each one as a graph; of alternative locations (and of two residues at one place)
    the one of highest occupancy; insertion codes make residues of their own; missing atoms leave zeros, see above; modified residues
    are part of the chain, while amino acids that are bonded to no chain are ligands and are left out, like water and nucleic acids.

    Args:
        root: folder of the cache; None keeps the graphs in memory alone.
        folder: the folder; files in folders inside it count too. Or one file, or a list of files and folders.
        cutoff: of contacts, in Å.
        target: ``"secondary"``, ``"exposure"`` or ``"sasa"``; None for no ``y``.
        features: which of these are columns of ``x`` as well: a class as three columns, an exposure that is not known as 0.
        models: ``"first"`` or ``"all"``.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.
            Files are known by name and checksum: a changed one is read again.

    What cannot be read, and chains without any CA atom, are named in ``skipped`` with the reason and counted in a warning.

    Raises:
        ValueError: no such folder or file, a file of another kind, no files, or none that could be read; an unknown target or a cutoff
            that is not positive.
        MissingExtra: biotite is not installed.

    Source: P-SEA: Labesse et al., Comput. Appl. Biosci. 13 (1997) 291; surface: Shrake and Rupley, J. Mol. Biol. 79 (1973) 351; greatest
    surfaces: Tien et al., PLoS ONE 8 (2013) e80635, table 1, theoretical.
    """

    version: ClassVar[int] = 2

    def __init__(
        self,
        root: str | Path | None,
        folder: str | Path | Sequence[str | Path],
        *,
        cutoff: float = 8.0,
        target: str | None = "secondary",
        features: Sequence[str] = (),
        models: str = "first",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        features = (features,) if isinstance(features, str) else tuple(features)
        for name in (*features, *([target] if target is not None else [])):
            require_known("target" if name == target else "features", name, _TARGETS)
        require_known("models", models, _MODELS)
        if not cutoff > 0:
            raise ValueError(f"cutoff must be positive, in Å, got {cutoff}.")
        self.folder, self.cutoff, self.target, self.features, self.models = folder, cutoff, target, features, models
        self.target_names = () if target is None else (target,)
        self.files = structure_files(folder)
        self.node_names = (*NODE_NAMES, *(column for name in features for column in EXTRA[name]))
        self.edge_names = EDGE_NAMES
        settings = {
            "files": {name: sha256(path) for name, path in self.files.items()},
            "cutoff": cutoff,
            "target": target,
            "features": features,
            "models": models,
        }
        hooks: dict[str, Any] = {"transform": transform, "pre_transform": pre_transform, "pre_filter": pre_filter}
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)

    def build(self) -> Iterator[Data]:
        """A graph a file, or a model, by name."""
        require("biotite", extra="protein", why="ProteinStructures")
        for name, path in self.progress(self.files.items(), len(self.files)):
            kind = STRUCTURE_SUFFIXES[path.suffix.lower()]
            try:
                for number, residues, without in read_residues(path, kind, every=self.models == "all"):
                    model = name if number == 1 else f"{name}#{number}"
                    for chain in without:
                        self.skip(f"{model}: chain {chain} has no CA atoms")
                    if not len(residues.ca):
                        self.skip(f"{model}: no residues with a CA atom")
                        continue
                    data = graph_of_residues(residues, self.cutoff, self.features)
                    data.name = model
                    if self.target is not None:
                        data.y = data[self.target].clone()
                    yield data
            except UnreadableStructure as error:
                self.skip(f"{name}: {error}")


def structure_files(source: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """The files by name: in a folder by their path from there; of a list by the name of the file, or its path where names are not unique.

    Raises:
        ValueError: what is no file or folder, a file of another kind, or no files.
    """
    known = ", ".join(STRUCTURE_SUFFIXES)
    listed = [Path(part) for part in ([source] if isinstance(source, str | Path) else source)]
    for path in listed:
        if not path.exists():
            raise ValueError(f"folder: there are no files {known} in {str(path)!r}, which is no folder.")
        if path.is_file() and path.suffix.lower() not in STRUCTURE_SUFFIXES:
            raise ValueError(f"folder: {str(path)!r} is no structure by its name; known: {known}.")
    if len(listed) == 1 and listed[0].is_dir():
        found = {path.relative_to(listed[0]).as_posix(): path for path in _inside(listed[0])}
    else:
        paths = [file for path in listed for file in (_inside(path) if path.is_dir() else [path])]
        unique = len({path.name for path in paths}) == len(paths)
        found = {path.name if unique else path.as_posix(): path for path in paths}
    if not found:
        raise ValueError(f"folder: there are no files {known} in {', '.join(map(repr, map(str, listed))) or 'an empty list'}.")
    return found


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in STRUCTURE_SUFFIXES and path.is_file())
