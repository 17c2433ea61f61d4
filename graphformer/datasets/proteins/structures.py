"""Protein structures, PDB and mmCIF files, as graphs of residues: contacts, backbone, secondary
structure, solvent exposure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch_geometric.data import Data

from graphformer.datasets.proteins.files import (
    STRUCTURE_SUFFIXES,
    find_structures,
    structure_files,
    structure_kind,
)
from graphformer.datasets.proteins.residue_graph import (
    EDGE_NAMES,
    EXTRA,
    NODE_NAMES,
    graph_of_residues,
)
from graphformer.datasets.proteins.residues import UnreadableStructure, read_residues
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.reading import checksum
from graphformer.errors import require, require_known, strict_flags

__all__ = ["STRUCTURE_SUFFIXES", "ProteinStructures", "structure_files"]

_TARGETS = ("secondary", "exposure", "sasa")
_MODELS = ("first", "all")


class ProteinStructures(GraphDataset):
    """PDB and mmCIF files, or folders of them, as graphs of residues.

    A node is a residue that has a CA atom. Edges, in both directions, join residues whose CA atoms
    are at most ``cutoff`` apart, in the whole structure with all its chains, and neighbours in a
    chain.

    - ``x``: ``node_names`` names the columns: the amino acid (a modified one counts as its parent,
      X is all that have none), sine and cosine of the backbone's angles phi, psi and omega (both 0
      where an atom is missing or the chain is broken), then ``features``.
    - ``edge_attr``: ``edge_names``: distance of the CA atoms in Å; 1 for contacts; 1 where the
      sender is the residue before and after the receiver in the chain; 1 for peptide bonds (C and N
      at most 2 Å apart; where one of them is missing: CA and CA at most 4.2 Å); 1 within a chain.
    - ``secondary``: float ``[N]``, 0 helix, 1 strand, 2 coil (the classes of
      ``ProteinSecondaryStructure``), by P-SEA from CA atoms.
    - ``sasa``: ``[N]``, the surface that water reaches, in Å^2, by Shrake and Rupley with a probe
      of 1.4 Å, of the chains of protein together without ligands and water; NaN where it cannot be
      known. ``exposure``: ``sasa`` over the greatest that the amino acid can have (Tien 2013), NaN
      for X.
    - ``y``: one of these three, for a target of each residue.
    - ``group_0``: the segment of each residue: a run of one class along peptide bonds. ``group_1``:
      its chain.
    - ``pos``: CA atoms in Å, ``[N, 3]``. ``sequence``: a letter a residue; ``residue``: the number
      in the file; ``insertion``: the letters of numbers such as 52A, and ``chains``: the names of
      the chains, both joined as in a row of a CSV file; ``name``: the file, with ``#2`` for its
      second model.

    Each CA atom of a file (one model, one location each) is a node, or counted in ``skipped``: CA
    atoms without coordinates, at the place of another (the higher occupancy stays), of what is no
    amino acid, and of amino acids (HETATM) that are bonded to no chain. Water, ions and nucleic
    acids have no CA atom. The rules:

    - Models: the first, or each one as a graph: MODEL, the model number of mmCIF, further blocks of
      a CIF file, and END where the same atoms follow once more. That others are not read is in
      ``notes``.
    - Locations: that of highest occupancy, the first of several; one of two residues at one number
      likewise. Modified residues (HETATM) are part of the chain that they are bonded to, wherever
      they stand in the file.
    - Chains: a name that several chains have (after TER, in another segment, or where numbers fall
      and come again, and no peptide bond leads on) is told apart as ``A``, ``A#2``. Blank names are
      those of the segment ids. Numbers are as in the file: decimal, hybrid-36 or hexadecimal, and
      may come twice where they wrap.
    - Names: force fields' (HIE, HSE, CYX, ASH, LYSH, NALA ...) are those of their amino acids.
      Where a name is another compound in the dictionary of the PDB as well (HSE, GLH), the side
      chain decides, and without one ATOM is the amino acid and HETATM the compound.
    - Surfaces: NaN for residues that lack heavy atoms, and where more than one in ten of the
      residues within 10 Å does; hydrogens and the element column are not needed. Occupancies, B
      factors, serial numbers and elements may lack.
    - Files: .pdb, .ent, .pdbqt, .pdb1 (assemblies), .cif, .mmcif, .pdbx and .bcif, each also with
      .gz, in either case of letters; what is in a file counts more than its suffix. Hidden files
      (``._a.pdb``) are passed over; others in the folders are told in ``notes``.

    Args:
        root: folder of the cache; None keeps the graphs in memory alone.
        folder: the folder; files in folders inside it count too. Or one file, or a list of files
            and folders.
        cutoff: of contacts, in Å.
        target: ``"secondary"``, ``"exposure"`` or ``"sasa"``; None for no ``y``.
        features: which of these are columns of ``x`` as well: a class as three columns, an exposure
            that is not known as 0.
        models: ``"first"`` or ``"all"``.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.
            Files are known by name and checksum: a changed one is read again.

    What cannot be read, and chains without any CA atom, are named in ``skipped`` with the reason
    and counted in a warning; what was read with a doubt is in ``notes`` and a warning: residues
    that become X, surfaces that are not known, models and files that are not read.

    Raises:
        ValueError: no such folder or file, a file of another kind, no files, or none that could be
            read; an unknown target or a cutoff that is not positive.
        MissingExtra: biotite is not installed.

    Source: P-SEA: Labesse et al., Comput. Appl. Biosci. 13 (1997) 291; surface: Shrake and Rupley,
    J. Mol. Biol. 79 (1973) 351; greatest surfaces: Tien et al., PLoS ONE 8 (2013) e80635, table 1,
    theoretical.
    """

    version: ClassVar[int] = 4

    @strict_flags
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
        self.folder, self.cutoff, self.target, self.features, self.models = (
            folder,
            cutoff,
            target,
            features,
            models,
        )
        self.target_names = () if target is None else (target,)
        self.files, others = find_structures(folder)
        self.node_names = (*NODE_NAMES, *(column for name in features for column in EXTRA[name]))
        self.edge_names = EDGE_NAMES
        settings = {
            "files": {name: checksum(path) for name, path in self.files.items()},
            "cutoff": cutoff,
            "target": target,
            "features": features,
            "models": models,
        }
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)
        if others:
            shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
            self.notes.append(
                f"{len(others)} files that are no structures by their names are not read: {shown}"
            )
            warnings.warn(f"ProteinStructures: {self.notes[-1]}", stacklevel=2)

    def build(self) -> Iterator[Data]:
        """A graph a file, or a model, by name."""
        require("biotite", extra="protein", why="ProteinStructures")
        for name, path in self.progress(self.files.items(), len(self.files)):
            try:
                for read in read_residues(
                    path, structure_kind(path) or "pdb", every=self.models == "all"
                ):
                    model = name if read.number == 1 else f"{name}#{read.number}"
                    for told in read.skipped:
                        self.skip(f"{model}: {told}")
                    for told in read.notes:
                        self.note(f"{model}: {told}")
                    if not len(read.residues.ca):
                        self.skip(f"{model}: no residues with a CA atom")
                        continue
                    data = graph_of_residues(read.residues, self.cutoff, self.features)
                    data.name = model
                    if self.target is not None:
                        data.y = data[self.target].clone()
                    yield data
            except UnreadableStructure as error:
                self.skip(f"{name}: {error}")
