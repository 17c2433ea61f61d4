"""Polymers written as text to graphs of atoms: pSMILES repeat units, and copolymers with composition and chain architecture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.errors import require

_ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Sn", "I")
_HYBRIDS = ("SP", "SP2", "SP3")
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_MOST = 4  # the last of the columns that count bonds and hydrogens stands for this many and more

NODE_NAMES = (
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
"""Columns of ``x``. ``degree`` counts bonds to other atoms than implied hydrogens, with those to the next unit; ``end``: 1 for atoms
that are bonded to another unit; ``fraction``: of the atom's monomer in the polymer, 1 in a homopolymer."""

EDGE_NAMES = (*(f"bond_{name.lower()}" for name in _BONDS), "conjugated", "ring", "periodic", "weight")
"""Columns of ``edge_attr``. ``periodic``: 1 for bonds to another unit; ``weight``: how often a bond is there, 1 within a unit."""


class _Atoms(NamedTuple):
    """What the molecules of one text give: features of atoms without ``fraction``, bonds and what can be bonded to other units."""

    x: np.ndarray  # [N, len(NODE_NAMES) - 1]
    edges: np.ndarray  # [2, E]
    edge_attr: np.ndarray  # [E, len(EDGE_NAMES)]
    monomer: np.ndarray  # [N]
    ends: dict[int, tuple[int, str, bool]]  # number of the end: its atom, the bond's type, whether the atom has a bond to conjugate with


def polymer_graph(text: str) -> Data:
    """A graph of atoms from a pSMILES or a copolymer text; implied hydrogens are counted at their atoms.

    A **pSMILES** is a repeat unit with two ends ``*``, which are joined: ``*CC(*)C`` is polypropylene. Features are those of the
    middle one of three units, so that conjugation and hybridisation are those of a long chain. The bond between units is two
    edges with ``periodic`` 1. They may be beside another bond of the same two atoms (``*CC*``), and in a unit whose ends are at one
    atom (``*C*``) both are self-loops: an atom receives one message for each bond that it has in the chain.

    A **copolymer** is ``A.B|0.25|0.75|<1-3:0.5:0.5<2-4:0.5:0.5``: monomers whose ends are numbered ``[*:1]``, ``[*:2]``, ...; the
    fraction of each; and how the ends are bonded. ``i-j:v:w`` is an edge from the atom of end i to that of end j of weight ``v``, and one
    back of weight ``w``; ``i-i:w:w`` is one self-loop of weight ``w``. A weight is the probability that the end is bonded to that other
    one: what an end receives sums to 1 where the text is complete.

    Returns:
        ``x`` [N, len(NODE_NAMES)], ``edge_index``, ``edge_attr`` [E, len(EDGE_NAMES)] (bonds, in both directions), ``node_weight`` [N]: the
        fraction of the atom's monomer, ``group_0`` int64 [N]: its monomer, and ``text``.

    Raises:
        ValueError: a text that cannot be read; the error quotes it with the reason.
        MissingExtra: rdkit is not installed.

    Source: atoms of a repeat unit in a closed chain: Kuenneth et al., Patterns 2 (2021) 100238; weighted edges between monomers: Aldeghi
    and Coley, Chem. Sci. 13 (2022) 10486.
    """
    smiles, *rest = (part.strip() for part in text.strip().split("|"))
    if not rest:
        atoms = _repeat_unit(smiles)
        return _graph(atoms, [1.0], atoms.edges, atoms.edge_attr, text)
    atoms, count = _monomers(smiles), len(rest) - 1
    if count != atoms.monomer.max() + 1:
        raise ValueError(f"{text!r} has {atoms.monomer.max() + 1} monomers and {count} fractions")
    try:
        fractions = [float(part) for part in rest[:-1]]
    except ValueError:
        raise ValueError(f"{text!r}: the fractions {rest[:-1]} must be numbers") from None
    if min(fractions) < 0 or not abs(sum(fractions) - 1) < 1e-3:
        raise ValueError(f"{text!r}: the fractions {fractions} must not be negative and must sum to 1")
    pairs, rows = [atoms.edges], [atoms.edge_attr]
    for rule in filter(None, rest[-1].split("<")):
        try:
            names, there, back = rule.split(":")
            first, second = (int(name) for name in names.split("-"))
            weights = (float(there), float(back))
        except ValueError:
            raise ValueError(f"{text!r}: the bond {rule!r} must be two ends and two weights, such as 1-3:0.5:0.5") from None
        if first not in atoms.ends or second not in atoms.ends:
            raise ValueError(f"{text!r}: the bond {rule!r} names an end that is not there; ends: {sorted(atoms.ends)}")
        (a, kind, soft_a), (b, kind_b, soft_b) = atoms.ends[first], atoms.ends[second]
        if kind != kind_b:
            raise ValueError(f"{text!r}: the bond {rule!r} joins a {kind.lower()} and a {kind_b.lower()} bond")
        both = [(a, b, weights[0]), (b, a, weights[1])]
        for sender, receiver, weight in both[: 1 if first == second else 2]:
            pairs.append(np.array([[sender], [receiver]]))
            rows.append(np.array([_bond(kind, soft_a and soft_b, False, True, weight)], dtype=np.float32))
    return _graph(atoms, fractions, np.concatenate(pairs, 1), np.concatenate(rows), text)


def _graph(atoms: _Atoms, fractions: Sequence[float], edges: np.ndarray, edge_attr: np.ndarray, text: str) -> Data:
    weight = np.asarray(fractions, dtype=np.float32)[atoms.monomer]
    return Data(
        x=torch.from_numpy(np.concatenate([atoms.x, weight[:, None]], 1)),
        edge_index=torch.from_numpy(np.ascontiguousarray(edges)),
        edge_attr=torch.from_numpy(edge_attr),
        node_weight=torch.from_numpy(weight),
        group_0=torch.from_numpy(atoms.monomer.copy()),  # the cache of monomers keeps its own
        text=text,
    )


def _parse(smiles: str) -> Any:
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    with require("rdkit.rdBase", extra="polymer", why="a graph of a SMILES").BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
        if molecule is None:
            reason = "it does not parse"
            if (raw := chem.MolFromSmiles(smiles, sanitize=False)) is not None:
                try:
                    chem.SanitizeMol(raw)
                except ValueError as error:
                    reason = str(error)
            raise ValueError(f"{smiles!r} is no SMILES: {reason}")
    return molecule


def _dummies(molecule: Any, smiles: str) -> list[Any]:
    ends = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 0]
    if any(end.GetDegree() != 1 or end.GetNeighbors()[0].GetAtomicNum() == 0 for end in ends):
        raise ValueError(f"{smiles!r}: each end * must have one bond, to an atom")
    return ends


def _repeat_unit(smiles: str) -> _Atoms:
    unit = _parse(smiles)
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    ends = _dummies(unit, smiles)
    if len(ends) != 2 or len(chem.GetMolFrags(unit)) != 1:
        raise ValueError(f"{smiles!r}: a repeat unit is one molecule with two ends *, and this has {len(ends)} ends")
    head, tail = (end.GetNeighbors()[0].GetIdx() for end in ends)
    kind, other = (end.GetBonds()[0].GetBondType() for end in ends)
    if kind != other:
        raise ValueError(f"{smiles!r}: the ends cannot be joined, their bonds are {str(kind).lower()} and {str(other).lower()}")
    size = unit.GetNumAtoms()
    chain = chem.RWMol(chem.CombineMols(chem.CombineMols(unit, unit), unit))
    for atom in chain.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    for copy in range(2):
        chain.AddBond(tail + copy * size, head + (copy + 1) * size, kind)
    first, last = (end.GetIdx() for end in ends)
    for number in sorted((last, first + size, last + size, first + 2 * size), reverse=True):
        chain.RemoveAtom(number)
    try:
        chem.SanitizeMol(chain)
    except ValueError as error:
        raise ValueError(f"{smiles!r}: the ends cannot be joined: {error}") from None
    place = {atom.GetIdx(): atom.GetIntProp("place") for atom in chain.GetAtoms()}
    middle = [atom for atom in chain.GetAtoms() if size <= place[atom.GetIdx()] < 2 * size]
    number = {place[atom.GetIdx()] - size: i for i, atom in enumerate(middle)}
    pairs, rows = [], []
    for bond in chain.GetBonds():
        a, b = sorted(place[end] for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        if not (size <= a < 2 * size and b < 3 * size) or (b >= 2 * size and a % size != tail):
            continue  # of the first or last unit, or the bond from the first to the middle one, which is counted once
        ends_of = number[a - size], number[b % size]
        pairs += [ends_of, ends_of[::-1]]
        rows += [_bond(str(bond.GetBondType()), bond.GetIsConjugated(), bond.IsInRing(), b >= 2 * size, 1.0)] * 2
    x = [_atom(atom, number.get(head) == i or number.get(tail) == i) for i, atom in enumerate(middle)]
    return _Atoms(_rows(x, NODE_NAMES[:-1]), _pairs(pairs), _rows(rows, EDGE_NAMES), np.zeros(len(x), dtype=np.int64), {})


@lru_cache(maxsize=256)
def _monomers(smiles: str) -> _Atoms:
    """Cached: data sets have many compositions and architectures of the same monomers."""
    molecule = _parse(smiles)
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    dummies = _dummies(molecule, smiles)
    atoms = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum()]
    if not atoms:
        raise ValueError(f"{smiles!r} has no atoms")
    number = {atom.GetIdx(): i for i, atom in enumerate(atoms)}
    ends: dict[int, tuple[int, str, bool]] = {}
    for dummy in dummies:
        name, atom = dummy.GetAtomMapNum(), dummy.GetNeighbors()[0]
        if name == 0 or name in ends:
            raise ValueError(f"{smiles!r}: the ends of a copolymer's monomers must be numbered [*:1], [*:2], ... each once")
        soft = any(bond.GetIsConjugated() or str(bond.GetBondType()) != "SINGLE" for bond in atom.GetBonds())
        ends[name] = (number[atom.GetIdx()], str(dummy.GetBonds()[0].GetBondType()), soft)
    pairs, rows = [], []
    for bond in molecule.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if a in number and b in number:
            pairs += [(number[a], number[b]), (number[b], number[a])]
            rows += [_bond(str(bond.GetBondType()), bond.GetIsConjugated(), bond.IsInRing(), False, 1.0)] * 2
    monomer = np.zeros(len(atoms), dtype=np.int64)
    for i, fragment in enumerate(chem.GetMolFrags(molecule)):
        monomer[[number[atom] for atom in fragment if atom in number]] = i
    joined = {atom for atom, _, _ in ends.values()}
    x = [_atom(atom, i in joined) for i, atom in enumerate(atoms)]
    return _Atoms(_rows(x, NODE_NAMES[:-1]), _pairs(pairs), _rows(rows, EDGE_NAMES), monomer, ends)


def _rows(rows: Sequence[Sequence[float]], names: Sequence[str]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))


def _pairs(pairs: Sequence[tuple[int, ...]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _one_hot(value: Any, known: Iterable[Any], other: bool = False) -> list[float]:
    found = [float(value == one) for one in known]
    return [*found, float(not any(found))] if other else found


def _atom(atom: Any, end: bool) -> list[float]:
    return [
        *_one_hot(atom.GetSymbol(), _ELEMENTS, other=True),
        *_one_hot(min(atom.GetDegree(), _MOST), range(_MOST + 1)),
        *_one_hot(min(atom.GetTotalNumHs(), _MOST), range(_MOST + 1)),
        *_one_hot(str(atom.GetHybridization()), _HYBRIDS, other=True),
        float(atom.GetFormalCharge()),
        float(atom.GetIsAromatic()),
        float(atom.IsInRing()),
        float(end),
    ]


def _bond(kind: str, conjugated: bool, ring: bool, periodic: bool, weight: float) -> list[float]:
    return [*_one_hot(kind, _BONDS), float(conjugated), float(ring), float(periodic), weight]
