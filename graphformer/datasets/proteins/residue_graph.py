"""The graph of residues: contacts, backbone, secondary structure, and what is known of each
residue.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Data

from graphformer.datasets.proteins.protein import AMINO_ACIDS, STATES
from graphformer.datasets.proteins.residue_sites import PEPTIDE, STEP
from graphformer.datasets.proteins.residues import Residues
from graphformer.errors import require

_ANGLES = ("phi", "psi", "omega")
NODE_NAMES = (
    *(f"amino_{letter}" for letter in AMINO_ACIDS),
    *(f"{part}_{angle}" for angle in _ANGLES for part in ("sin", "cos")),
)
EDGE_NAMES = ("distance", "contact", "before", "after", "peptide", "same_chain")
EXTRA = {
    "secondary": tuple(f"state_{letter}" for letter in STATES),
    "exposure": ("exposure",),
    "sasa": ("sasa",),
}

_SURFACE = dict(
    zip(
        AMINO_ACIDS,
        [
            129,
            167,
            193,
            223,
            240,
            104,
            224,
            197,
            236,
            201,
            224,
            195,
            159,
            225,
            274,
            155,
            172,
            174,
            285,
            263,
            np.nan,
        ],
        strict=True,
    )
)  # Å^2


def join_names(names: Iterable[str]) -> str:
    """Names joined by commas, in quotes where a name holds one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return "" if text.getvalue() == '""' else text.getvalue()


def split_names(text: str) -> list[str]:
    """The names that :func:`join_names` joined."""
    return next(csv.reader([text]), []) or [""]


def _bonded(backbone: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Whether each residue has a peptide bond to the next one, ``[N - 1]``."""
    before, after = backbone[:-1], backbone[1:]
    bond = np.linalg.norm(before[:, 2] - after[:, 0], axis=-1)
    step = np.linalg.norm(before[:, 1] - after[:, 1], axis=-1)
    return (chain[:-1] == chain[1:]) & np.where(np.isnan(bond), step <= STEP, bond <= PEPTIDE)


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
    """Classes by P-SEA, places in ``STATES``. The CA atoms get numbers of their own, which leap
    where the chain is broken.
    """
    structure = require("biotite.structure", extra="protein", why="reading structures")
    atoms = structure.AtomArray(len(ca))
    atoms.coord = ca
    atoms.atom_name[:], atoms.res_name[:], atoms.element[:], atoms.chain_id[:] = (
        "CA",
        "ALA",
        "C",
        "A",
    )
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
    columns += [
        np.eye(len(STATES))[state]
        if name == "secondary"
        else np.nan_to_num(measured[name])[:, None]
        for name in features
    ]

    near = cKDTree(ca).query_pairs(cutoff, output_type="ndarray").reshape(-1, 2)
    inside = np.nonzero(residues.chain[:-1] == residues.chain[1:])[0]
    pairs = np.unique(np.concatenate([near, np.stack([inside, inside + 1], 1)]), axis=0).astype(
        np.int64
    )
    edges = np.concatenate([pairs, pairs[:, ::-1]]).T  # senders, receivers
    edges = edges[:, np.lexsort(edges)]
    senders, receivers = edges
    distance, same = (
        np.linalg.norm(ca[senders] - ca[receivers], axis=-1),
        residues.chain[senders] == residues.chain[receivers],
    )
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
        sequence="".join(AMINO_ACIDS[letter] for letter in residues.amino),
        residue=torch.from_numpy(residues.number),
        insertion=join_names(residues.insertion),
        chains=join_names(residues.chains),
    )
