"""Crystals from CIF, by gemmi: symmetry is expanded, and what is no ordered crystal is refused."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from graphformer.datasets.crystals.crystal import Crystal
from graphformer.datasets.store.reading import UnreadableStructure
from graphformer.datasets.store.tables import some
from graphformer.errors import require

CELL = tuple(f"_cell_{part}" for part in ("length_a", "length_b", "length_c")) + tuple(
    f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")
)
SYMMETRY = (
    *("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz"),
    *("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt"),
    *("_symmetry_space_group_name_Hall", "_space_group_name_Hall"),
    *("_symmetry_Int_Tables_number", "_space_group_IT_number"),
)
FITS = 0.02
"""Of the squares of a cell's edges: a cell that its symmetry changes by more is told."""
_PART = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?")
OCCUPANCY = 1e-3
"""An occupancy nearer to 1 than this is 1."""


class Read(list[Crystal | str]):
    """The crystals of a file in its order, and for one that is left out the reason.

    Attributes:
        notes: what was read with a doubt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


def read_cif(text: str) -> Read:
    """The crystals of a CIF file, one a block with atoms.

    Raises:
        UnreadableStructure: no CIF, or no block with fractional coordinates.
        MissingExtra: gemmi is not installed.
    """
    gemmi = require("gemmi", extra="crystals", why="reading CIF")
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise UnreadableStructure(
            f"cannot be read as CIF ({' '.join(str(error).split())[:120]})"
        ) from None
    read, empty = Read(), []
    for block in document:
        if not len(block.find_values("_atom_site_fract_x")):
            empty.append(block.name)
            continue
        several = f"block {block.name}: " if len(document) > 1 else ""
        try:
            read.append(_crystal(gemmi, block, read.notes, several))
        except (UnreadableStructure, ValueError) as error:
            read.append(f"{several}{error}")
    if not read:
        macro = any(len(block.find_values("_atom_site.Cartn_x")) for block in document)
        told = "it is mmCIF, of macromolecules: read it as a protein" if macro else "no coordinates"
        raise UnreadableStructure(f"holds no crystal ({told}; _atom_site_fract_x is read)")
    if empty:
        read.notes.append(f"blocks without fractional coordinates are not read: {some(empty)}")
    return read


def _crystal(gemmi: Any, block: Any, notes: list[str], several: str) -> Crystal:
    values = {name: block.find_value(name) for name in CELL}
    for name, value in values.items():
        if value is None or not gemmi.cif.as_number(value) > 0:
            told = "is missing" if value is None else f"is {value}"
            raise UnreadableStructure(f"no cell: {name} {told}")
    structure = gemmi.make_small_structure_from_block(block)
    for told in (*_symmetry(gemmi, structure, block), *_unplaced(gemmi, block)):
        notes.append(several + told)
    shares = block.find_values("_atom_site_occupancy")
    for place, share in enumerate(shares):
        if share not in ("?", ".") and not np.isfinite(gemmi.cif.as_number(share)):
            raise UnreadableStructure(f"atom {place + 1} has the occupancy {share}, no number")
    flags = block.find_values("_atom_site_calc_flag")
    dummies = [gemmi.cif.as_string(flag).lower() == "dum" for flag in flags]
    heavy = []
    for place, site in enumerate(structure.sites):
        label, where = site.label, site.fract.tolist()
        if place < len(dummies) and dummies[place]:
            raise UnreadableStructure(f"site {label} is a dummy; take it out of the file")
        if site.element.atomic_number == 0:
            raise UnreadableStructure(f"site {label}: {site.type_symbol or label} is no element")
        if not np.isfinite(where).all():
            raise UnreadableStructure(f"site {label} has coordinates that are not known, {where}")
        if site.disorder_group:
            raise UnreadableStructure(f"site {label} is disordered (group {site.disorder_group})")
        if not abs(site.occ - 1) < OCCUPANCY:
            raise UnreadableStructure(
                f"site {label} is partly occupied ({site.occ:g}): give an ordered structure"
            )
        if site.element.name == "D":
            heavy.append(label)
    if heavy:
        notes.append(f"{several}deuterium is read as hydrogen: {some(heavy)}")
    sites = structure.get_all_unit_cell_sites()
    cell = cell_of(structure)
    fractional = np.array([site.fract.tolist() for site in sites]).reshape(-1, 3)
    names = tuple("H" if site.element.name == "D" else site.element.name for site in sites)
    crystal = Crystal(cell, fractional, names)
    notes += [several + told for told in _other_formula(gemmi, block, crystal)]
    return crystal


def _unplaced(gemmi: Any, block: Any) -> list[str]:
    """What the file tells beside the atoms it has places for."""
    told = []
    attached = [gemmi.cif.as_number(n) for n in block.find_values("_atom_site_attached_hydrogens")]
    if any(count > 0 for count in attached):
        count = sum(int(count) for count in attached if count > 0)
        told.append(f"{count} hydrogens are attached to sites, have no place and are not read")
    modulation = block.find_value("_cell_modulation_dimension")
    if modulation is not None and gemmi.cif.as_number(modulation) > 0:
        told.append("it is modulated, and the average structure is read")
    return told


def _other_formula(gemmi: Any, block: Any, crystal: Crystal) -> list[str]:
    """Where the file's own formula, or number of formula units in the cell, is not that of the
    atoms: elements that were taken from labels, or atoms that lack.
    """
    value = block.find_value("_chemical_formula_sum")
    text = "" if value is None else gemmi.cif.as_string(value)
    formula: defaultdict[str, float] = defaultdict(float)
    for part in text.split():
        if not (found := _PART.fullmatch(part)):
            return []  # written in another way, or with an unknown
        formula["H" if found[1] == "D" else found[1]] += float(found[2] or 1)
    atoms = Counter(crystal.elements)
    if not formula:
        return []
    units = len(crystal.elements) / sum(formula.values())
    if any(abs(atoms[one] - units * formula[one]) > 0.01 * units for one in {*atoms, *formula}):
        return [f"its formula is {text}, and its atoms are {crystal.formula}"]
    z = gemmi.cif.as_number(block.find_value("_cell_formula_units_Z") or "?")
    if np.isfinite(z) and abs(z - units) > 0.01:
        return [f"its cell has {z:g} units of its formula {text}, and its atoms are {units:g}"]
    return []


def _symmetry(gemmi: Any, structure: Any, block: Any) -> list[str]:
    """Doubts about the symmetry.

    Raises:
        UnreadableStructure: it is told in a way that cannot be expanded, so atoms would lack.
    """
    told = [name for name in SYMMETRY if len(block.find_values(name))]
    if not told:
        return ["no symmetry is told, and all atoms are taken to be there (P 1)"]
    problems = " ".join(structure.check_spacegroup().split())
    if any(word in problems for word in ("error while", "incorrect", "incomplete")):
        raise UnreadableStructure(f"its symmetry cannot be read ({problems})")
    if structure.spacegroup is None and not len(structure.symops):
        raise UnreadableStructure(
            f"its symmetry cannot be read ({problems or f'{told[0]} alone says too little'}); give "
            "_space_group_symop_operation_xyz"
        )
    doubts = [f"its statements of symmetry differ ({problems})"] if "differs" in problems else []
    group = structure.spacegroup
    if not len(structure.symops) and group.ext in ("1", "2") and not _names_origin(block):
        doubts.append(
            f"{group.hm} has two origins and the file does not say which; {group.xhm()} is taken"
        )
    told_operations = [gemmi.Op(text) for text in structure.symops] or group.operations()
    metric = cell_of(structure) @ cell_of(structure).T
    for rotation in (np.array(operation.rot) / 24 for operation in told_operations):
        off = np.abs(rotation.T @ metric @ rotation - metric).max()
        if off > FITS * metric.max():
            doubts.append("its cell does not have its symmetry")
            break
    return doubts


def cell_of(structure: Any) -> np.ndarray:
    """``[3, 3]``, a lattice vector a row, in Å."""
    return np.array(structure.cell.orth.mat.tolist()).T


def _names_origin(block: Any) -> bool:
    """Whether the name of the space group says which origin is meant: ``F d -3 m :2``, or in Hall's
    notation.
    """
    values = [(name, block.find_value(name) or "") for name in SYMMETRY]
    return any(":" in value or ("Hall" in name and value) for name, value in values)
