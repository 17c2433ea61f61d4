"""Copolymers written as text: monomers, their fractions, and how their ends are bonded."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from graphformer.datasets.polymers.features import (
    EDGE_NAMES,
    NODE_NAMES,
    Atoms,
    atom_row,
    bond_row,
    has_stereo,
    label_stereo,
    link_row,
    pairs,
    rows,
)
from graphformer.datasets.polymers.parse import parse
from graphformer.errors import require


def read_copolymer(
    polymer: str, text: str
) -> tuple[Atoms, list[float], np.ndarray, np.ndarray, float]:
    """Atoms, fractions, edges and their features, and the logarithm of the length."""
    smiles, *rest = (part.strip() for part in polymer.split("|"))
    bonds, tilde, length = rest[-1].partition("~")
    if bonds and not bonds.startswith("<"):
        hint = (
            "after a space, bars hold a CXSMILES extension; those of a copolymer hold a fraction "
            "for each monomer, then its bonds: "
        )
        raise ValueError(f"{text!r}: {bonds!r} is no list of bonds; {hint}A.B|0.5|0.5|<1-3:0.5:0.5")
    atoms, count = _monomers(smiles), len(rest) - 1
    if count != atoms.monomer.max() + 1:
        hint = (
            ""
            if count < 1 or "." not in smiles
            else "; counter-ions and solvents count as monomers, or are left out"
        )
        raise ValueError(
            f"{text!r} has {atoms.monomer.max() + 1} monomers and {count} fractions{hint}"
        )
    try:
        fractions = [float(part) for part in rest[:-1]]
    except ValueError:
        raise ValueError(f"{text!r}: the fractions {rest[:-1]} must be numbers") from None
    if not min(fractions) >= 0 or not abs(sum(fractions) - 1) < 1e-3:
        raise ValueError(
            f"{text!r}: the fractions {fractions} must not be negative and must sum to 1"
        )
    edges, edge_attr = [atoms.edges], [atoms.edge_attr]
    received, seen = dict.fromkeys(atoms.ends, 0.0), set()
    for rule in filter(None, (part.strip() for part in bonds.split("<"))):
        first, second, weights = _rule(rule, atoms, text)
        if frozenset((first, second)) in seen:
            raise ValueError(
                f"{text!r}: the bond {rule!r} is there twice; give each pair of ends once"
            )
        seen.add(frozenset((first, second)))
        (a, kind, soft_a), (b, _, soft_b) = atoms.ends[first], atoms.ends[second]
        for sender, receiver, weight, end in [
            (a, b, weights[0], second),
            (b, a, weights[1], first),
        ][: 1 if first == second else 2]:
            edges.append(np.array([[sender], [receiver]]))
            edge_attr.append(
                np.array([link_row(kind, soft_a and soft_b, False, True, weight)], dtype=np.float32)
            )
            received[end] += weight
    if over := [end for end, total in received.items() if total > 1 + 1e-3]:
        raise ValueError(
            f"{text!r}: end {over[0]} receives weights that sum to {received[over[0]]:g}; they are "
            "probabilities, up to 1"
        )
    return (
        atoms,
        fractions,
        np.concatenate(edges, 1),
        np.concatenate(edge_attr),
        _log_length(length, text) if tilde else 0.0,
    )


def _rule(rule: str, atoms: Atoms, text: str) -> tuple[int, int, tuple[float, float]]:
    try:
        names, there, back = rule.split(":")
        first, second = (int(name) for name in names.split("-"))
        weights = (float(there), float(back))
    except ValueError:
        raise ValueError(
            f"{text!r}: the bond {rule!r} must be two ends and two weights, such as 1-3:0.5:0.5"
        ) from None
    if first not in atoms.ends or second not in atoms.ends:
        raise ValueError(
            f"{text!r}: the bond {rule!r} names an end that is not there; ends: "
            f"{sorted(atoms.ends)}"
        )
    if not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(
            f"{text!r}: the weights of the bond {rule!r} are probabilities, from 0 to 1"
        )
    if first == second and weights[0] != weights[1]:
        raise ValueError(
            f"{text!r}: the bond {rule!r} of an end to its own kind has one weight, written twice"
        )
    kind, other = atoms.ends[first][1], atoms.ends[second][1]
    if kind != other:
        raise ValueError(
            f"{text!r}: the bond {rule!r} joins a {kind.lower()} and a {other.lower()} bond"
        )
    return first, second, weights


def _log_length(length: str, text: str) -> float:
    try:
        number = float(length)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise ValueError(
            f"{text!r}: the degree of polymerisation {length.strip()!r} after ~ must be a number "
            "of at least 1"
        )
    return math.log10(number)


def dummies_of(molecule: Any, quoted: str) -> list[Any]:
    ends = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 0]
    if any(end.GetDegree() != 1 or end.GetNeighbors()[0].GetAtomicNum() == 0 for end in ends):
        raise ValueError(f"{quoted}: each end * must have one bond, to an atom")
    return ends


@lru_cache(maxsize=256)
def _monomers(smiles: str) -> Atoms:
    """Cached: data sets have many compositions and architectures of the same monomers."""
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    molecule = parse(smiles, repr(smiles))
    dummies = dummies_of(molecule, repr(smiles))
    atoms = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum()]
    if not atoms:
        raise ValueError(f"{smiles!r} has no atoms")
    number = {atom.GetIdx(): i for i, atom in enumerate(atoms)}
    ends: dict[int, tuple[int, str, bool]] = {}
    for dummy in dummies:
        name, atom = dummy.GetAtomMapNum(), dummy.GetNeighbors()[0]
        if name == 0 or name in ends:
            raise ValueError(
                f"{smiles!r}: the ends of a copolymer's monomers must be numbered [*:1], [*:2], "
                "... each once"
            )
        soft = any(
            bond.GetIsConjugated() or str(bond.GetBondType()) != "SINGLE"
            for bond in atom.GetBonds()
        )
        ends[name] = (number[atom.GetIdx()], str(dummy.GetBonds()[0].GetBondType()), soft)
    if has_stereo(molecule):
        label_stereo(
            molecule,
            [dummy.GetIdx() for dummy in sorted(dummies, key=lambda one: one.GetAtomMapNum())],
            repr(smiles),
        )
    edges, edge_attr = [], []
    for bond in molecule.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if a in number and b in number:
            edges += [(number[a], number[b]), (number[b], number[a])]
            edge_attr += [bond_row(bond)] * 2
    monomer = np.zeros(len(atoms), dtype=np.int64)
    for i, fragment in enumerate(chem.GetMolFrags(molecule)):
        monomer[[number[atom] for atom in fragment if atom in number]] = i
    joined = {atom for atom, _, _ in ends.values()}
    x = [atom_row(atom, i in joined) for i, atom in enumerate(atoms)]
    return Atoms(rows(x, NODE_NAMES), pairs(edges), rows(edge_attr, EDGE_NAMES), monomer, ends)
