"""The surface of each residue that water reaches, and where it cannot be known."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from graphformer.datasets.proteins import residue_names
from graphformer.datasets.proteins.residue_sites import Site, Sorted
from graphformer.errors import require

_RADIUS = 1.8  # Å, of atoms of which not even the element is known
# A missing side chain opens the surface of residues whose CA atoms are up to 10 Å away. Measured on
# no more than 17 structures of at most 700 residues, the side chains of 2 % and of 10 % of the
# residues removed at random: where at most one in ten lacks atoms, the surfaces of the others are
# 0.4 to 1.3 Å^2 too large in the mean (95 % of them up to 3 to 9 Å^2).
_REACH = 10.0  # Å
_SHARE = 0.1


def missing_atoms(site: Site) -> frozenset[str] | None:
    """The heavy atoms that a residue should have and lacks; None where no one knows its atoms."""
    expected = residue_names.expected_atoms(site.name)
    if expected is None or not residue_names.is_amino_acid(site.name):
        return None
    return expected - {residue_names.standard_atom(site.name, atom) for atom in site.atoms}


def surfaces(found: Sorted) -> tuple[np.ndarray, int, int]:
    """The surface of each node in Å^2, NaN where it cannot be known.

    By Shrake and Rupley, of all residues of protein together, those without a CA atom and the caps
    of the ends too, without ligands and water, and without hydrogens.

    Returns:
        the surfaces ``[N]``; how many nodes lack atoms of their own; and how many others are not
        known, because residues next to them lack atoms.
    """
    structure = require("biotite.structure", extra="protein", why="reading structures")
    places, radii, owner = [], [], []
    for at, site in enumerate([*found.nodes, *found.lacking, *found.caps]):
        for name, atom in site.atoms.items():
            element = residue_names.element_of(site.name, name, atom.element)
            if element in ("H", "D") or (not element and residue_names.is_amino_acid(site.name)):
                continue  # the second: lone pairs and other points that are no atoms
            standard = residue_names.standard_atom(site.name, name)
            places.append(atom.place)
            radii.append(residue_names.radius_of(site.name, standard, element, _RADIUS))
            owner.append(at)
    area = np.zeros(len(found.nodes) + len(found.lacking) + len(found.caps))
    if places:
        atoms = structure.AtomArray(len(places))
        atoms.coord = np.array(places, dtype=np.float32)
        atoms.element[:] = "C"
        each = structure.sasa(atoms, vdw_radii=np.array(radii), ignore_ions=False)
        np.add.at(area, owner, np.nan_to_num(each))
    area = area[: len(found.nodes)]
    gaps = [missing_atoms(site) for site in found.nodes]
    own = np.array([gap is None or len(gap) > 0 for gap in gaps], dtype=bool)
    near = _beside(found, gaps) & ~own
    area[own | near] = np.nan
    return area.astype(np.float32), int(own.sum()), int(near.sum())


def _beside(found: Sorted, gaps: list[frozenset[str] | None]) -> np.ndarray:
    """Whether more than one in ten of the residues around each node lacks atoms, ``[N]``."""
    if not found.nodes:
        return np.zeros(0, dtype=bool)
    others = [
        np.array([a.place for a in site.atoms.values()]).mean(0)
        for site in found.lacking
        if site.atoms
    ]
    middle = np.array([site.atoms["CA"].place for site in found.nodes] + others).reshape(-1, 3)
    short = np.array([bool(gap) for gap in gaps] + [True] * len(others))
    around = cKDTree(middle).query_ball_point(middle[: len(found.nodes)], _REACH)
    counts = np.array([[len(near) - 1, short[near].sum()] for near in around])
    return counts[:, 1] > _SHARE * counts[:, 0]
