"""Residues of a structure file as arrays of one row a residue, and all that is left out or in
doubt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from graphformer.datasets.proteins import residue_names
from graphformer.datasets.proteins.atom_table import UNNUMBERED, Model, read_models
from graphformer.datasets.proteins.files import (
    UnreadableStructure,
    content,
    is_assembly,
    kind_by_content,
)
from graphformer.datasets.proteins.protein import AMINO_ACIDS
from graphformer.datasets.proteins.residue_sites import Site, Sorted, sites_of, sort_sites
from graphformer.datasets.proteins.residue_surface import surfaces

_BACKBONE = ("N", "CA", "C")
_NAMED = 3  # how many of a kind are told by name


class Residues(NamedTuple):
    """Residues in the order of their chains. Missing atoms are NaN."""

    amino: np.ndarray  # [N] places in AMINO_ACIDS
    backbone: np.ndarray  # [N, 3, 3]: N, CA, C
    chain: np.ndarray  # [N] places in chains
    number: np.ndarray  # [N] as in the file
    insertion: tuple[str, ...]  # the letter of each number such as 52A, "" for most
    sasa: np.ndarray  # [N] NaN where it cannot be known
    chains: tuple[str, ...]

    @property
    def ca(self) -> np.ndarray:
        return self.backbone[:, 1]


class ReadModel(NamedTuple):
    """A model of a file: what is read of it, what is left out, and what is in doubt."""

    number: int  # from 1, in the order of the file
    residues: Residues
    skipped: list[str]
    notes: list[str]


def read_residues(path: Path, kind: str, *, every: bool) -> Iterator[ReadModel]:
    """Models of a file: the first, or every one. A CIF file's further blocks with atoms count as
    well.

    Each CA atom of a model, in one location, is a residue or counted in ``skipped``.

    Raises:
        UnreadableStructure: there are no atoms, or the file is not whole; the text has the reason.
    """
    data = content(path)
    charges = path.name.lower().removesuffix(".gz").endswith(".pdbqt")
    parts = read_models(data, kind_by_content(data, kind), charges=charges)
    count = next(parts)
    assert isinstance(count, int)
    for number in range(1, count + 1 if every else 2):
        model = next(parts)
        assert isinstance(model, Model)
        read = _read(number, model)
        if not every and count > 1:
            told = f"the first of {count} models is read; models='all' makes a graph of each"
            read.notes.insert(0, told)
        if number == 1 and count > 1 and is_assembly(path):
            read.notes.insert(
                0,
                f"the {count} models of an assembly are copies that touch each other, and edges "
                "and surfaces are those of one alone; the assembly as mmCIF has them as chains of "
                "one model",
            )
        yield read


def _read(number: int, model: Model) -> ReadModel:
    found = sort_sites(sites_of(model.atoms))
    nodes = found.nodes
    area, short, beside = surfaces(found)
    notes = [*found.notes, *_doubts(model, found)]
    if short + beside:
        notes.append(
            f"the surface of {short + beside} of {len(nodes)} residues cannot be known and is NaN: "
            f"{short} lack side chain or backbone atoms (or are of no known kind) and {beside} are "
            "beside such; rebuild missing atoms (PDBFixer, say) to have it"
        )
    backbone = np.full((len(nodes), 3, 3), np.nan, dtype=np.float32)
    for at, site in enumerate(nodes):
        for place, atom in enumerate(_BACKBONE):
            if (spot := site.place(atom)) is not None:
                backbone[at, place] = spot
    residues = Residues(
        amino=np.array(
            [AMINO_ACIDS.index(residue_names.letter_of(s.name)) for s in nodes], np.int64
        ),
        backbone=backbone,
        chain=np.array(found.chain, dtype=np.int64),
        number=np.array([site.number for site in nodes], dtype=np.int64),
        insertion=tuple(site.insertion for site in nodes),
        sasa=area,
        chains=tuple(found.chains),
    )
    skipped = [
        f"{_count(len(sites), 'residue')} left out, because {why}: {_some(s.label for s in sites)}"
        for why, sites in found.left.items()
    ]
    with_ca = set(found.chains)
    bare = dict.fromkeys(s.chain or s.segment for s in found.lacking)
    return ReadModel(
        number,
        residues,
        skipped + [f"chain {name} has no CA atoms" for name in bare if name not in with_ca],
        notes,
    )


def _doubts(model: Model, found: Sorted) -> Iterator[str]:
    """What was read in spite of a fault of the file, or in one of two possible ways."""
    chains = set(found.chains)
    lacking = [site for site in found.lacking if (site.chain or site.segment) in chains]
    if lacking:
        yield (
            f"{_count(len(lacking), 'residue')} without a CA atom, no node: "
            f"{_some(s.label for s in lacking)}"
        )
    gone = [atom.row for atom in model.atoms if atom.place is None]
    if gone:
        yield f"{_count(len(gone), 'atom')} without coordinates that can be read: row {_some(gone)}"
    if model.strays:
        told = "atom that does not start in the first column is not read"
        yield f"{len(model.strays)} {told}: row {_some(model.strays)}"
    unnumbered = [site for site in found.nodes if site.number == UNNUMBERED]
    if unnumbered:
        yield f"{_count(len(unnumbered), 'residue')} without a number that can be read"
    unknown = Counter(s.residue for s in found.nodes if residue_names.letter_of(s.name) == "X")
    if unknown:
        names = ", ".join(
            f"{name or 'without a name'} ({times})" for name, times in unknown.most_common(8)
        )
        more = f" and {len(unknown) - 8} more names" if len(unknown) > 8 else ""
        yield (
            f"{_count(sum(unknown.values()), 'residue')} of no amino acid that has a letter, X: "
            f"{names}{more}"
        )
    doubled = [site for site in found.nodes if _in_doubt(site)]
    if doubled:
        names = ", ".join(
            sorted({f"{s.residue} as {residue_names.letter_of(s.name)}" for s in doubled})
        )
        yield (
            "names of force fields that are codes of other compounds too, read by their atoms: "
            f"{names}"
        )


def _in_doubt(site: Site) -> bool:
    """Whether a name has two meanings that differ in their letter, and no side chain tells
    which.
    """
    twin = residue_names.NAMES.get(site.residue)
    if twin is None or not residue_names.is_amino_acid(site.residue):
        return False
    side = site.atoms.keys() - {"N", "CA", "C", "O", "OXT", "CB"}
    letters = {residue_names.letter_of(name) for name in (twin, site.residue)}
    return len(letters) > 1 and not any(
        residue_names.element_of(site.name, a, "") not in ("H", "") for a in side
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Iterable[object]) -> str:
    told = list(map(str, names))
    return ", ".join(told[:_NAMED]) + (", ..." if len(told) > _NAMED else "")


__all__ = ["ReadModel", "Residues", "UnreadableStructure", "read_residues"]
