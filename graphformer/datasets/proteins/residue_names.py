"""What a residue is by its name and its atoms: amino acid, the atoms it should have, their
elements.

Names are those of the Chemical Component Dictionary (CCD) and those of the force fields of
simulations (Amber, CHARMM, GROMACS, GROMOS, OPLS, Rosetta), which give protonation states names.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from graphformer.datasets.proteins.protein import AMINO_ACIDS
from graphformer.errors import require

_STATES = {
    "HIS": "HID HIE HIP HSD HSE HSP HISA HISB HISD HISE HISH HISP HIS1 HIS2 HIS+ HIS_D",
    "CYS": "CYX CYM CYN CYZ CYSH CYSS CYS1 CYS2 CYSX CYSD",
    "ASP": "ASH ASPH ASPP",
    "GLU": "GLH GLUH GLUP",
    "LYS": "LYN LYP LSN LYSH LYSN LYSP",
    "ARG": "ARN ARGN",
    "TYR": "TYM TYRM",
    "ILE": "ILU",
    "PRO": "CPR CPRO",
}
_PARENTS = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)
_FORCE_FIELD = {name: parent for parent, names in _STATES.items() for name in names.split()}
# Amber's residues at the ends of a chain: NALA, CHIE.
_ENDS = {
    f"{end}{name}": parent
    for end in "NC"
    for name, parent in [*((p, p) for p in _PARENTS), *_FORCE_FIELD.items()]
    if len(name) == 3
}
NAMES = {**_ENDS, **_FORCE_FIELD}  # CPRO and the like are there twice, for one amino acid
_ALIASES = {
    **{"OT1": "O", "OC1": "O", "O1": "O", "OT": "O"},
    **{"OT2": "OXT", "OC2": "OXT", "O2": "OXT", "OXT1": "OXT", "OTX": "OXT"},
}
_OWN_ALIASES = {
    "ILE": {"CD": "CD1"},
    "ASN": {"AD1": "OD1", "AD2": "ND2"},  # O and N that were not told apart
    "GLN": {"AE1": "OE1", "AE2": "NE2"},
}
CAPS = frozenset(["ACE", "FOR", "NME", "NMA", "NHE", "NH2"])
"""Groups that close the ends of a chain: no residues, but in the way of water."""
CALCIUM = frozenset(("CA", "CA2", "CA+", "CA2+", "CAL", "CA+2"))


def _info() -> ModuleType:
    return require("biotite.structure.info", extra="protein", why="reading structures")


@functools.cache
def dictionary_atoms(name: str) -> dict[str, str]:
    """Names and elements of the heavy atoms of a compound of the CCD; empty where it has none."""
    try:
        atoms = _info().residue(name)
    except KeyError:
        return {}
    heavy = ~np.isin(atoms.element, ("H", "D"))
    return dict(zip(atoms.atom_name[heavy].tolist(), atoms.element[heavy].tolist(), strict=True))


@functools.cache
def _amino_acids() -> frozenset[str]:
    return frozenset(map(str, _info().amino_acid_names()))


@functools.cache
def is_other_compound(name: str) -> bool:
    """Whether the CCD knows it as something that is no amino acid."""
    return name in _known() and name not in _amino_acids()


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(map(str, _info().all_residues()))


def standard_name(name: str, altloc: str, atoms: Iterable[str], hetero: bool) -> str:
    """The name under which the CCD has a residue; the name itself where it has none.

    Some names of force fields are codes of other compounds in the CCD: HSE is homoserine there, GLH
    and LYN are derivatives of glutamine and lysine, HID and CYX are no amino acids. The side chain
    decides: the compound that has more of the atoms that are present. With as many of them in both,
    or no side chain at all, ATOM stands for the force field, and HETATM for the CCD.

    A name of four letters may begin in the column of the location (``altloc``).
    """
    whole = altloc + name
    if altloc and whole in NAMES and name not in _amino_acids():
        return NAMES[whole]
    parent = NAMES.get(name)
    if parent is None or name not in _known():
        return parent or name
    side = {_OWN_ALIASES.get(parent, {}).get(atom, atom) for atom in atoms}
    side -= {"N", "CA", "C", "O", "OXT"}
    ours, theirs = (
        len(side & dictionary_atoms(parent).keys()),
        len(side & dictionary_atoms(name).keys()),
    )
    if ours != theirs:
        return parent if ours > theirs else name
    return name if hetero else parent


def is_amino_acid(name: str) -> bool:
    """Whether a standard name is an amino acid of the CCD."""
    return name in _amino_acids()


@functools.cache
def letter_of(name: str) -> str:
    """The letter of a standard name, of the parent for modified ones; X for all without one."""
    letter = _info().one_letter_code(name) if name in _amino_acids() else None
    return letter if letter and len(letter) == 1 and letter in AMINO_ACIDS else "X"


def standard_atom(residue: str, atom: str) -> str:
    """The CCD's name of an atom in a residue of a standard name."""
    own = dictionary_atoms(residue)
    if atom in own or residue not in _amino_acids():
        return atom
    return _OWN_ALIASES.get(residue, {}).get(atom) or _ALIASES.get(atom, atom)


@functools.cache
def expected_atoms(residue: str) -> frozenset[str] | None:
    """The heavy atoms of a residue inside a chain; None where the CCD does not know it."""
    return frozenset(dictionary_atoms(residue).keys() - {"OXT"}) or None


@functools.cache
def element_of(residue: str, atom: str, written: str) -> str:
    """The element of an atom: by the CCD, by the file, or by its name; "" where nothing tells it.

    The dictionary comes first: programs write CA as the element of alpha carbons.
    """
    known = dictionary_atoms(residue).get(atom) if residue in _amino_acids() else None
    if known:
        return known
    name = atom.lstrip("0123456789")
    if residue in _amino_acids() and name[:1] in ("H", "D") and written in ("", "H", "D", "X"):
        return "H"
    if written and _radius(written) is not None:
        return written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be told stays blank
        repair = require("biotite.structure.repair", extra="protein", why="reading structures")
        return str(repair.infer_elements(np.array([atom]))[0])


def _radius(element: str) -> float | None:
    return _info().vdw_radius_single(element)


@functools.cache
def radius_of(residue: str, atom: str, element: str, default: float) -> float:
    """Radius in Å. ProtOr's take hydrogens, which most files lack, into account; else the
    element's.
    """
    try:
        radius = _info().vdw_radius_protor(residue, atom)
    except KeyError:  # a residue or an atom of it that no one knows
        radius = None
    return radius or _radius(element) or default
