"""The columns of atoms and bonds of polymers, and their values from rdkit's atoms and bonds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from graphformer.errors import require, require_known

FEATURES = ("full", "basic")
_ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Sn", "I")
_HYBRIDS = ("SP", "SP2", "SP3")
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_MOST = 4  # the last of the columns that count bonds and hydrogens stands for this many and more
_CIP_STEPS = 1_000_000  # of rdkit's search; a centre takes some hundreds

BASIC_NODE_NAMES = (
    *(f"element_{name}" for name in (*_ELEMENTS, "other")),
    *(f"degree_{count}" for count in range(_MOST + 1)),
    *(f"hydrogens_{count}" for count in range(_MOST + 1)),
    *(f"hybrid_{name.lower()}" for name in (*_HYBRIDS, "other")),
    "charge",
    "aromatic",
    "ring",
    "end",
    "fraction",
)
NODE_NAMES = (
    *BASIC_NODE_NAMES,
    "other_number",
    "chirality_r",
    "chirality_s",
    "isotope",
    "radicals",
    "log_length",
)
"""Columns of ``x``. ``degree`` counts bonds to other atoms than implied hydrogens, with those to
the next unit; ``end``: 1 for atoms that are bonded to another unit; ``fraction``: of the atom's
monomer in the polymer, 1 in a homopolymer; ``other_number``: a hundredth of the atomic number of an
element without a column of its own; ``chirality_r``, ``chirality_s``: the CIP label of a centre
whose configuration is written; ``isotope``: mass number above that of the commonest isotope, where
one is written; ``radicals``: unpaired electrons; ``log_length``: ``log10`` of the degree of
polymerisation, 0 where none is written, the same for all atoms.
"""

BASIC_EDGE_NAMES = (
    *(f"bond_{name.lower()}" for name in _BONDS),
    "conjugated",
    "ring",
    "periodic",
    "weight",
)
EDGE_NAMES = (*BASIC_EDGE_NAMES, "stereo_e", "stereo_z")
"""Columns of ``edge_attr``. A bond of another kind, such as a dative one, has none of the first
four. ``periodic``: 1 for bonds to another unit; ``weight``: how often a bond is there, 1 within a
unit; ``stereo_e``, ``stereo_z``: the CIP label of a double bond whose configuration is written.
"""


class Atoms(NamedTuple):
    """What the molecules of one text give: features of atoms and bonds, and what can be bonded to
    other units.
    """

    x: np.ndarray  # [N, len(NODE_NAMES)], with 0 for fraction and log_length
    edges: np.ndarray  # [2, E]
    edge_attr: np.ndarray  # [E, len(EDGE_NAMES)]
    monomer: np.ndarray  # [N]
    # number of the end: its atom, the bond's type, whether the atom has a bond to conjugate with
    ends: dict[int, tuple[int, str, bool]]


def node_names(features: str) -> tuple[str, ...]:
    """The columns of ``x``: all, or those of models that were trained before there were more.

    Raises:
        ValueError: ``features`` is neither ``"full"`` nor ``"basic"``.
    """
    require_known("features", features, FEATURES)
    return NODE_NAMES if features == "full" else BASIC_NODE_NAMES


def edge_names(features: str) -> tuple[str, ...]:
    """The columns of ``edge_attr``, as :func:`node_names`."""
    require_known("features", features, FEATURES)
    return EDGE_NAMES if features == "full" else BASIC_EDGE_NAMES


def beyond_basic(x: np.ndarray, edge_attr: np.ndarray) -> list[str]:
    """What of a graph the basic columns do not tell, in words."""
    told = {
        "stereo (R/S, E/Z)": x[
            :, [NODE_NAMES.index("chirality_r"), NODE_NAMES.index("chirality_s")]
        ].any()
        or edge_attr[:, len(BASIC_EDGE_NAMES) :].any(),
        "isotopes": x[:, NODE_NAMES.index("isotope")].any(),
        "radicals": x[:, NODE_NAMES.index("radicals")].any(),
        "the degree of polymerisation": x[:, NODE_NAMES.index("log_length")].any(),
    }
    return [what for what, there in told.items() if there]


def atom_row(atom: Any, end: bool) -> list[float]:
    """The features of an atom that are its own."""
    cip = atom.GetProp("_CIPCode").upper() if atom.HasProp("_CIPCode") else ""
    other = atom.GetSymbol() not in _ELEMENTS
    table = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES").GetPeriodicTable()
    isotope = (
        atom.GetIsotope() - table.GetMostCommonIsotope(atom.GetAtomicNum())
        if atom.GetIsotope()
        else 0
    )
    return [
        *_one_hot(atom.GetSymbol(), _ELEMENTS, other=True),
        *_one_hot(min(atom.GetDegree(), _MOST), range(_MOST + 1)),
        *_one_hot(min(atom.GetTotalNumHs(), _MOST), range(_MOST + 1)),
        *_one_hot(str(atom.GetHybridization()), _HYBRIDS, other=True),
        float(atom.GetFormalCharge()),
        float(atom.GetIsAromatic()),
        float(atom.IsInRing()),
        float(end),
        0.0,
        atom.GetAtomicNum() / 100 if other else 0.0,
        float(cip == "R"),
        float(cip == "S"),
        float(isotope),
        float(atom.GetNumRadicalElectrons()),
        0.0,
    ]


def bond_row(bond: Any, periodic: bool = False) -> list[float]:
    """The features of a bond that is there once."""
    cip = bond.GetProp("_CIPCode").upper() if bond.HasProp("_CIPCode") else ""
    return [
        *link_row(str(bond.GetBondType()), bond.GetIsConjugated(), bond.IsInRing(), periodic, 1.0)[
            :-2
        ],
        *_one_hot(cip, "EZ"),
    ]


def link_row(kind: str, conjugated: bool, ring: bool, periodic: bool, weight: float) -> list[float]:
    """The features of a bond that is in no molecule of rdkit."""
    return [
        *_one_hot(kind, _BONDS),
        float(conjugated),
        float(ring),
        float(periodic),
        weight,
        0.0,
        0.0,
    ]


def rows(values: Sequence[Sequence[float]], names: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(len(values), len(names))


def pairs(values: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.array(values, dtype=np.int64).reshape(-1, 2).T


def has_stereo(molecule: Any) -> bool:
    """Whether the configuration of a centre or of a double bond is written."""
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    return any(
        atom.GetChiralTag() != chem.ChiralType.CHI_UNSPECIFIED for atom in molecule.GetAtoms()
    ) or any(bond.GetStereo() > chem.BondStereo.STEREOANY for bond in molecule.GetBonds())


def label_stereo(molecule: Any, heavy: Sequence[int], quoted: str) -> None:
    """Give the atoms and bonds of ``molecule`` their CIP labels, with the dummy atoms ``heavy`` as
    the highest, in this order.

    Raises:
        ValueError: rdkit gives up the search.
    """
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    cip = require("rdkit.Chem.rdCIPLabeler", extra="polymer", why="a graph of a SMILES")
    ranked = chem.RWMol(molecule)
    for place, index in enumerate(heavy):
        ranked.GetAtomWithIdx(index).SetAtomicNum(118 - place)
        ranked.GetAtomWithIdx(index).SetIsotope(0)
    try:
        cip.AssignCIPLabels(ranked, maxRecursiveIterations=_CIP_STEPS)
    except RuntimeError as error:
        raise ValueError(
            f"{quoted}: its R, S, E and Z cannot be told ({error}); write it without stereo"
        ) from None
    for own, other in zip(
        (*molecule.GetAtoms(), *molecule.GetBonds()),
        (*ranked.GetAtoms(), *ranked.GetBonds()),
        strict=True,
    ):
        own.ClearProp("_CIPCode")
        if other.HasProp("_CIPCode"):
            own.SetProp("_CIPCode", other.GetProp("_CIPCode"))


def _one_hot(value: Any, known: Iterable[Any], other: bool = False) -> list[float]:
    found = [float(value == one) for one in known]
    return [*found, float(not any(found))] if other else found
