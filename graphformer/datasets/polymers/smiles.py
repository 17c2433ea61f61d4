"""Polymers written as text to graphs of atoms: pSMILES repeat units, and copolymers with
composition and chain architecture.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.polymers.copolymers import dummies_of, read_copolymer

# the names of columns are read from here
from graphformer.datasets.polymers.features import EDGE_NAMES as EDGE_NAMES
from graphformer.datasets.polymers.features import (
    NODE_NAMES,
    Atoms,
    atom_row,
    beyond_basic,
    bond_row,
    edge_names,
    has_stereo,
    label_stereo,
    node_names,
    pairs,
    rows,
)
from graphformer.datasets.polymers.parse import parse, split_extension
from graphformer.errors import require


def polymer_graph(text: str, *, features: str = "full") -> Data:
    """A graph of atoms from a pSMILES or a copolymer text; implied hydrogens are counted at their
    atoms.

    A **pSMILES** is a repeat unit with two ends ``*``, which are joined: ``*CC(*)C`` is
    polypropylene. Features are those of the middle one of three units, so that conjugation and
    hybridisation are those of a long chain. The bond between units is two edges with
    ``periodic`` 1. They may be beside another bond of the same two atoms (``*CC*``), and in a unit
    whose ends are at one atom (``*C*``) both are self-loops: an atom receives one message for each
    bond that it has in the chain. Molecules beside it that have no ends, such as the counter-ion of
    ``*CC(*)C(=O)[O-].[Na+]``, are kept: nodes without bonds to the chain, in groups of their own.

    A **copolymer** is ``A.B|0.25|0.75|<1-3:0.5:0.5<2-4:0.5:0.5~80``: monomers whose ends are
    numbered ``[*:1]``, ``[*:2]``, ...; the fraction of each; how the ends are bonded; and, where it
    is known, the degree of polymerisation, at least 1. ``i-j:v:w`` is an edge from the atom of end
    i to that of end j of weight ``v``, and one back of weight ``w``; ``i-i:w:w`` is one self-loop
    of weight ``w``. A weight is the probability that the end is bonded to that other one: what an
    end receives sums to 1 where the text is complete, and never to more. Units with more than two
    bonds to others (ladder polymers, networks) are written so too.

    **Stereo**: R, S, E and Z are the CIP labels of the middle one of three units, so that they do
    not depend on where the chain is cut. A centre whose two directions along the chain are alike,
    as in polypropylene, has no label of its own; then the direction of the first end counts as the
    higher one. So isotactic units have one label throughout and syndiotactic ones both by turns,
    and to write the unit backwards exchanges them. In a copolymer, ends with low numbers are the
    higher ones.

    A name after the SMILES is left out, and of CXSMILES (``*CC* |$star_e;;;star_e$|``) labels of
    ends and radicals are read.

    Args:
        text: the polymer.
        features: ``"full"``, or ``"basic"``: the columns without stereo, other elements' numbers,
            isotopes, radicals and length, for models that were trained on them. What they leave out
            of a text is told in a warning.

    Returns:
        ``x`` [N, len(NODE_NAMES)], ``edge_index``, ``edge_attr`` [E, len(EDGE_NAMES)] (bonds, in
        both directions), ``node_weight`` [N]: the fraction of the atom's monomer, ``group_0`` int64
        [N]: its monomer, and ``text``.

    Raises:
        TypeError: no text.
        ValueError: a text that cannot be read, or that holds what no feature tells; the error
            quotes it with the reason.
        MissingExtra: rdkit is not installed.

    Source: atoms of a repeat unit in a closed chain: Kuenneth et al., Patterns 2 (2021) 100238;
    weighted edges between monomers: Aldeghi and Coley, Chem. Sci. 13 (2022) 10486, whose model
    weighs a polymer by ``1 + log10`` of the degree of polymerisation.
    """
    data, left_out = graph_and_left_out(text, features)
    if left_out:
        warnings.warn(
            f"{text!r}: the basic features do not tell {' and '.join(left_out)}", stacklevel=2
        )
    return data


def graph_and_left_out(text: str, features: str = "full") -> tuple[Data, list[str]]:
    """:func:`polymer_graph`, and what its columns do not tell of the text."""
    names = node_names(features), edge_names(features)
    if not isinstance(text, str):
        raise TypeError(f"a polymer must be a text, got {type(text).__name__} {text!r}")
    polymer, fields, name = split_extension(text)
    if "*" in name:
        raise ValueError(
            f"{text!r} holds more than one text; give each polymer alone, and write a copolymer "
            "with bars, A.B|0.5|0.5|<..."
        )
    if "|" in polymer:
        atoms, fractions, edges, edge_attr, length = read_copolymer(polymer, text)
    else:
        atoms, length = _repeat_unit(polymer, text, fields), 0.0
        fractions, edges, edge_attr = (
            [1.0] * (int(atoms.monomer.max()) + 1),
            atoms.edges,
            atoms.edge_attr,
        )
    weight = np.asarray(fractions, dtype=np.float32)[atoms.monomer]
    x = atoms.x.copy()
    x[:, NODE_NAMES.index("fraction")], x[:, NODE_NAMES.index("log_length")] = weight, length
    data = Data(
        x=torch.from_numpy(np.ascontiguousarray(x[:, : len(names[0])])),
        edge_index=torch.from_numpy(np.ascontiguousarray(edges)),
        edge_attr=torch.from_numpy(np.ascontiguousarray(edge_attr[:, : len(names[1])])),
        node_weight=torch.from_numpy(weight),
        group_0=torch.from_numpy(atoms.monomer.copy()),  # the cache of monomers keeps its own
        text=text,
    )
    return data, beyond_basic(x, edge_attr) if features == "basic" else []


def _repeat_unit(smiles: str, text: str, fields: str) -> Atoms:
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    whole = parse(smiles, repr(text), fields)
    ends = dummies_of(whole, repr(text))
    parts = chem.GetMolFrags(whole)
    with_ends = [part for part in parts if any(end.GetIdx() in part for end in ends)]
    if len(ends) != 2 or len(with_ends) != 1:
        raise ValueError(
            f"{text!r}: a repeat unit is one molecule with two ends *, and this has "
            f"{_what(whole, ends, len(with_ends))}"
        )
    head, tail = (end.GetNeighbors()[0].GetIdx() for end in ends)
    kind, other = (end.GetBonds()[0].GetBondType() for end in ends)
    if kind != other:
        raise ValueError(
            f"{text!r}: the ends cannot be joined, their bonds are {str(kind).lower()} and "
            f"{str(other).lower()}"
        )
    size = whole.GetNumAtoms()
    chain = _chain(whole, [end.GetIdx() for end in ends], text)
    place = [atom.GetIntProp("place") for atom in chain.GetAtoms()]
    middle = [atom for atom in chain.GetAtoms() if size <= place[atom.GetIdx()] < 2 * size]
    number = {place[atom.GetIdx()] - size: i for i, atom in enumerate(middle)}
    edges, edge_attr = [], []
    for bond in chain.GetBonds():
        a, b = sorted(place[end] for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        if not (size <= a < 2 * size and b < 3 * size) or (b >= 2 * size and a % size != tail):
            # of the first or last unit, or the bond from the first to the middle one, which is
            # counted once
            continue
        ends_of = number[a - size], number[b % size]
        edges += [ends_of, ends_of[::-1]]
        edge_attr += [bond_row(bond, b >= 2 * size)] * 2
    x = [
        atom_row(atom, number.get(head) == i or number.get(tail) == i)
        for i, atom in enumerate(middle)
    ]
    monomer = np.zeros(len(x), dtype=np.int64)
    for group, part in enumerate((part for part in parts if part is not with_ends[0]), start=1):
        monomer[[number[atom] for atom in part]] = group
    return Atoms(rows(x, NODE_NAMES), pairs(edges), rows(edge_attr, EDGE_NAMES), monomer, {})


def _what(molecule: Any, ends: Sequence[Any], with_ends: int) -> str:
    """How a text that is no repeat unit looks."""
    many = f"{len(ends)} ends" + (f" at {with_ends} molecules" if with_ends > 1 else "")
    if len(ends) > 2 and with_ends == 1:
        return (
            f"{many}; number them and say how they are bonded, as in "
            "[*:1]...[*:4]|1|<1-3:1:1<2-4:1:1"
        )
    if with_ends > 1:
        return (
            f"{many}; write a copolymer with its fractions and bonds, as in "
            "A.B|0.5|0.5|<1-3:0.5:0.5"
        )
    return many


def _chain(unit: Any, ends: Sequence[int], text: str) -> Any:
    """Three units in a row, with CIP labels where the unit has stereo; ``place`` tells copy and
    atom, ``copy * size + atom``.
    """
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    size, (first, last) = unit.GetNumAtoms(), ends
    head, tail = (unit.GetAtomWithIdx(end).GetNeighbors()[0].GetIdx() for end in ends)
    chain = chem.RWMol(chem.CombineMols(chem.CombineMols(unit, unit), unit))
    for atom in chain.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    kind = unit.GetAtomWithIdx(first).GetBonds()[0].GetBondType()
    for copy in range(2):
        chain.AddBond(tail + copy * size, head + (copy + 1) * size, kind)
    # The outer ends stay: their atoms keep their valence, and with stereo they tell the two
    # directions of the chain apart.
    for number in sorted([last, first + size, last + size, first + 2 * size], reverse=True):
        chain.RemoveAtom(number)
    try:
        chem.SanitizeMol(chain)
    except ValueError as error:
        raise ValueError(f"{text!r}: the ends cannot be joined: {error}") from None
    if has_stereo(unit):
        _copy_stereo(unit, chain, (first, last), (head, tail))
        label_stereo(
            chain,
            [atom.GetIdx() for atom in chain.GetAtoms() if atom.GetIntProp("place") == first],
            repr(text),
        )
    return chain


def _copy_stereo(unit: Any, chain: Any, ends: tuple[int, int], joined: tuple[int, int]) -> None:
    """Give the units of a chain the configuration of the unit.

    rdkit tells it by the order of an atom's bonds, and the joining has changed that.
    """
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    size, (first, last), (head, tail) = unit.GetNumAtoms(), ends, joined
    where = {atom.GetIntProp("place"): atom.GetIdx() for atom in chain.GetAtoms()}

    def at(copy: int, index: int) -> int:
        """The atom of the chain that stands for an atom or an end of the unit."""
        if index == first and copy > 0:
            return where[(copy - 1) * size + tail]
        if index == last and copy < 2:
            return where[(copy + 1) * size + head]
        return where[copy * size + index]

    for copy in range(3):
        for atom in unit.GetAtoms():
            if atom.GetIdx() in ends or not atom.GetChiralTag():
                continue
            own = chain.GetAtomWithIdx(at(copy, atom.GetIdx()))
            own.SetChiralTag(atom.GetChiralTag())
            order = [bond.GetOtherAtomIdx(own.GetIdx()) for bond in own.GetBonds()]
            moved = [
                order.index(at(copy, bond.GetOtherAtomIdx(atom.GetIdx())))
                for bond in atom.GetBonds()
            ]
            if sum(a > b for i, a in enumerate(moved) for b in moved[i + 1 :]) % 2:
                own.InvertChirality()
        for bond in unit.GetBonds():
            if bond.GetStereo() <= chem.BondStereo.STEREOANY:
                continue
            own = chain.GetBondBetweenAtoms(
                at(copy, bond.GetBeginAtomIdx()), at(copy, bond.GetEndAtomIdx())
            )
            if own is None or own.GetIsAromatic():
                continue
            own.SetStereoAtoms(*(at(copy, atom) for atom in bond.GetStereoAtoms()))
            cis = bond.GetStereo() in (chem.BondStereo.STEREOCIS, chem.BondStereo.STEREOZ)
            own.SetStereo(chem.BondStereo.STEREOCIS if cis else chem.BondStereo.STEREOTRANS)
