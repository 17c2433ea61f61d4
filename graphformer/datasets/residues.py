"""Residues of a structure file: what biotite reads, put into arrays of one row a residue, and the graph of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Data

from graphformer.datasets.protein import AMINO_ACIDS, STATES
from graphformer.errors import require

_ANGLES = ("phi", "psi", "omega")
NODE_NAMES = (*(f"amino_{letter}" for letter in AMINO_ACIDS), *(f"{part}_{angle}" for angle in _ANGLES for part in ("sin", "cos")))
EDGE_NAMES = ("distance", "contact", "before", "after", "peptide", "same_chain")
EXTRA = {"secondary": tuple(f"state_{letter}" for letter in STATES), "exposure": ("exposure",), "sasa": ("sasa",)}

_BACKBONE = ("N", "CA", "C")
_PEPTIDE = 2.0  # Å between C and N; a bond has 1.33
_RADIUS = 1.8  # Å, of atoms of which not even the element is known
_STEP = 4.2  # Å between the CA atoms of bonded residues, which have 3.8
_SURFACE = dict(
    zip(
        AMINO_ACIDS,
        [129, 167, 193, 223, 240, 104, 224, 197, 236, 201, 224, 195, 159, 225, 274, 155, 172, 174, 285, 263, np.nan],
        strict=True,
    )
)  # Å^2


class UnreadableStructure(Exception):
    """Why a file is left out."""


class Residues(NamedTuple):
    """Residues in the order of their chains. Missing atoms are NaN."""

    amino: np.ndarray  # [N] places in AMINO_ACIDS
    backbone: np.ndarray  # [N, 3, 3]: N, CA, C
    chain: np.ndarray  # [N] places in chains
    number: np.ndarray  # [N] as in the file
    insertion: tuple[str, ...]  # the letter of each number such as 52A, "" for most
    sasa: np.ndarray  # [N]
    chains: tuple[str, ...]

    @property
    def ca(self) -> np.ndarray:
        return self.backbone[:, 1]


def read_residues(path: Path, kind: str, *, every: bool) -> Iterator[tuple[int, Residues, list[str]]]:
    """Models of a file (the first, or every one): its number from 1, its residues, and its chains of protein without CA atoms.

    Raises:
        UnreadableStructure: the file is no whole PDB or mmCIF file; the text has the reason.
    """
    module = require(f"biotite.structure.io.{'pdbx' if kind == 'cif' else 'pdb'}", extra="protein", why="reading structures")
    # Broken files make a parser fail in its own ways (an index, a key, a number): each of them says that the file is broken.
    try:
        file = module.CIFFile.read(path) if kind == "cif" else module.PDBFile.read(path)
        count = module.get_model_count(file)
    except Exception as error:
        raise UnreadableStructure(f"cannot be read ({type(error).__name__}: {_short(error)})") from error
    if count < 1:
        raise UnreadableStructure("cannot be read (there are no atoms)")
    for number in range(1, count + 1 if every else 2):
        try:
            atoms = module.get_structure(file, model=number, altloc="occupancy", extra_fields=["occupancy"])
        except Exception as error:
            raise UnreadableStructure(f"model {number} cannot be read ({type(error).__name__}: {_short(error)})") from error
        yield number, *_residues(atoms)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else "no reason given"


def _residues(atoms: Any) -> tuple[Residues, list[str]]:
    structure = require("biotite.structure", extra="protein", why="reading structures")
    atoms = atoms[np.isfinite(atoms.coord).all(-1) & ~np.isin(atoms.element, ("H", "D"))]
    bounds = structure.get_residue_starts(atoms, add_exclusive_stop=True) if atoms.array_length() else np.zeros(1, dtype=int)
    known = structure.filter_amino_acids(atoms)
    order = {chain: place for place, chain in enumerate(dict.fromkeys(atoms.chain_id.tolist()))}
    with_ca: dict[str, bool] = {}
    best: dict[tuple[int, int, str], tuple[float, int, int, np.ndarray]] = {}
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own = np.full((3, 3), np.nan, dtype=np.float32)
        for place, atom in enumerate(_BACKBONE):
            # The element tells a carbon CA from an ion of calcium.
            at = np.nonzero((atoms.atom_name[start:stop] == atom) & (atoms.element[start:stop] != "CA"))[0]
            if len(at):
                own[place] = atoms.coord[start + at[0]]
        name, has_ca = str(atoms.chain_id[start]), bool(np.isfinite(own[1]).all())
        if not (known[start] or np.isfinite(own).all()):
            continue
        with_ca[name] = with_ca.get(name, False) or has_ca
        key = (order[name], int(atoms.res_id[start]), str(atoms.ins_code[start]))
        occupancy = float(atoms.occupancy[start:stop].mean())
        if has_ca and (key not in best or occupancy > best[key][0]):
            best[key] = (occupancy, start, stop, own)
    rows = sorted(best.items(), key=lambda item: (item[0][0], item[1][1]))
    starts = np.array([row[1] for _, row in rows], dtype=np.int64)
    backbone = np.array([row[3] for _, row in rows], dtype=np.float32).reshape(-1, 3, 3)
    chain = np.array([key[0] for key, _ in rows], dtype=np.int64)
    bonded = _bonded(backbone, chain)
    keep = ~atoms.hetero[starts] | np.append(bonded, False)[: len(rows)] | np.insert(bonded, 0, False)[: len(rows)]
    rows = [row for row, kept in zip(rows, keep, strict=True) if kept]
    names, (present, place_of) = list(order), np.unique(chain[keep], return_inverse=True)
    protein = np.zeros(atoms.array_length(), dtype=bool)
    for _, (_, start, stop, _) in rows:
        protein[start:stop] = True
    surface = np.zeros(len(protein))
    if protein.any():
        surface[protein] = np.nan_to_num(structure.sasa(atoms[protein], vdw_radii=_radii(atoms[protein])))
    residues = Residues(
        amino=np.array([_amino(str(atoms.res_name[start])) for start in starts[keep]], dtype=np.int64),
        backbone=backbone[keep],
        chain=place_of.ravel(),
        number=atoms.res_id[starts[keep]].astype(np.int64),
        insertion=tuple(str(code).strip() for code in atoms.ins_code[starts[keep]]),
        sasa=np.array([surface[start:stop].sum() for _, (_, start, stop, _) in rows], dtype=np.float32),
        chains=tuple(names[place] for place in present),
    )
    return residues, [name for name, has_ca in with_ca.items() if not has_ca]


def _amino(name: str) -> int:
    """The amino acid of a residue name; that of the parent for modified ones."""
    letter = require("biotite.structure.info", extra="protein", why="reading structures").one_letter_code(name)
    return AMINO_ACIDS.find(letter) if letter and letter in AMINO_ACIDS else AMINO_ACIDS.index("X")


def _radii(atoms: Any) -> np.ndarray:
    """Radii in Å. Those of ProtOr take hydrogens, which most files lack, into account; where it has none: those of the elements."""
    info = require("biotite.structure.info", extra="protein", why="reading structures")
    known: dict[tuple[str, str, str], float] = {}
    keys = list(zip(atoms.res_name.tolist(), atoms.atom_name.tolist(), atoms.element.tolist(), strict=True))
    for key in set(keys):
        residue, name, element = key
        try:
            radius = info.vdw_radius_protor(residue, name)
        except KeyError:  # a residue or an atom of it that no one knows
            radius = None
        known[key] = radius or info.vdw_radius_single(element) or _RADIUS
    return np.array([known[key] for key in keys])


def _bonded(backbone: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Whether each residue has a peptide bond to the next one, ``[N - 1]``."""
    before, after = backbone[:-1], backbone[1:]
    bond = np.linalg.norm(before[:, 2] - after[:, 0], axis=-1)
    step = np.linalg.norm(before[:, 1] - after[:, 1], axis=-1)
    return (chain[:-1] == chain[1:]) & np.where(np.isnan(bond), step <= _STEP, bond <= _PEPTIDE)


def _angles(backbone: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """phi, psi and omega in radians, ``[N, 3]``, NaN where they are not defined.

    phi is the dihedral C(i-1) N CA C, psi N CA C N(i+1), and omega CA(i-1) C(i-1) N CA.
    """
    dihedral = require("biotite.structure", extra="protein", why="reading structures").dihedral
    n, ca, c = backbone.transpose(1, 0, 2)
    angles = np.full((len(n), 3), np.nan, dtype=np.float32)
    if len(n) > 1:
        angles[1:, 0] = np.where(bonded, dihedral(c[:-1], n[1:], ca[1:], c[1:]), np.nan)
        angles[:-1, 1] = np.where(bonded, dihedral(n[:-1], ca[:-1], c[:-1], n[1:]), np.nan)
        angles[1:, 2] = np.where(bonded, dihedral(ca[:-1], c[:-1], n[1:], ca[1:]), np.nan)
    return angles


def _states(ca: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Classes by P-SEA, places in ``STATES``. The CA atoms get numbers of their own, which leap where the chain is broken."""
    structure = require("biotite.structure", extra="protein", why="reading structures")
    atoms = structure.AtomArray(len(ca))
    atoms.coord = ca
    atoms.atom_name[:], atoms.res_name[:], atoms.element[:], atoms.chain_id[:] = "CA", "ALA", "C", "A"
    atoms.res_id = 1 + np.concatenate([[0], np.cumsum(np.where(bonded, 1, 2))])
    letters = structure.annotate_sse(atoms)
    return np.select([letters == "a", letters == "b"], [0, 1], 2)


def graph_of_residues(residues: Residues, cutoff: float, features: Sequence[str]) -> Data:
    """The graph of residues, see :class:`~graphformer.datasets.ProteinStructures`."""
    ca, count = residues.ca, len(residues.ca)
    bonded = _bonded(residues.backbone, residues.chain)
    angles, state = _angles(residues.backbone, bonded), _states(ca, bonded)
    largest = np.array([_SURFACE[letter] for letter in AMINO_ACIDS])[residues.amino]
    measured = {"secondary": state, "exposure": residues.sasa / largest, "sasa": residues.sasa}
    turns = np.nan_to_num(np.stack([np.sin(angles), np.cos(angles)], -1)).reshape(count, -1)
    columns = [np.eye(len(AMINO_ACIDS))[residues.amino], turns]
    columns += [np.eye(len(STATES))[state] if name == "secondary" else np.nan_to_num(measured[name])[:, None] for name in features]

    near = cKDTree(ca).query_pairs(cutoff, output_type="ndarray").reshape(-1, 2)
    inside = np.nonzero(residues.chain[:-1] == residues.chain[1:])[0]
    pairs = np.unique(np.concatenate([near, np.stack([inside, inside + 1], 1)]), axis=0).astype(np.int64)
    edges = np.concatenate([pairs, pairs[:, ::-1]]).T  # senders, receivers
    edges = edges[:, np.lexsort(edges)]
    senders, receivers = edges
    distance, same = np.linalg.norm(ca[senders] - ca[receivers], axis=-1), residues.chain[senders] == residues.chain[receivers]
    before, after = same & (receivers - senders == 1), same & (senders - receivers == 1)
    peptide = (before | after) & np.append(bonded, False)[np.minimum(senders, receivers)]
    edge_attr = np.stack([distance, distance <= cutoff, before, after, peptide, same], 1)

    segment = np.concatenate([[0], np.cumsum(~bonded | (state[1:] != state[:-1]))])
    return Data(
        x=torch.from_numpy(np.concatenate(columns, 1)).float(),
        edge_index=torch.from_numpy(np.ascontiguousarray(edges)),
        edge_attr=torch.from_numpy(edge_attr).float(),
        pos=torch.from_numpy(np.ascontiguousarray(ca)),
        **{name: torch.from_numpy(value).float() for name, value in measured.items()},
        group_0=torch.from_numpy(segment).long(),
        group_1=torch.from_numpy(residues.chain),
        residue=torch.from_numpy(residues.number),
        insertion=",".join(residues.insertion),
        chains=",".join(residues.chains),
    )
