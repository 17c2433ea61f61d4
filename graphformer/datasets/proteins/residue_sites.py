"""Residues of a structure file: atoms put together, each in one location, and parted into
chains.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from graphformer.datasets.proteins import residue_names
from graphformer.datasets.proteins.atom_table import UNNUMBERED, Atom
from graphformer.datasets.proteins.files import UnreadableStructure

PEPTIDE = 2.0  # Å between C and N; a bond has 1.33
STEP = 4.2  # Å between the CA atoms of bonded residues, which have 3.8
_SAME = 1.0  # Å between CA atoms that cannot both be there
_STEPS = (2.5, 5.0)  # Å, of half of all steps; cis bonds have 2.9
_LAST = frozenset(("OXT", "OT2", "OC2"))  # atoms of the last residue of a chain


@dataclass(eq=False)
class Site:
    """A residue in one location. ``atoms`` are those that have a place, by name."""

    chain: str
    segment: str
    end: int
    number: int
    insertion: str
    residue: str  # as it is written
    name: str  # as the CCD has it
    hetero: bool
    atoms: dict[str, Atom]
    unplaced: bool  # it has a CA atom without a place

    @property
    def label(self) -> str:
        number = "?" if self.number == UNNUMBERED else self.number
        return f"{self.residue} {self.chain}{number}{self.insertion}"

    def place(self, atom: str) -> tuple[float, float, float] | None:
        found = self.atoms.get(atom)
        return None if found is None else found.place


@dataclass
class Sorted:
    """Sites by what becomes of them: each CA atom is in ``nodes`` or counted in ``left``."""

    nodes: list[Site] = field(default_factory=list)  # by chain, in order
    chain: list[int] = field(default_factory=list)  # the chain of each node
    chains: list[str] = field(default_factory=list)
    lacking: list[Site] = field(default_factory=list)  # amino acids without a CA atom
    caps: list[Site] = field(default_factory=list)
    left: dict[str, list[Site]] = field(default_factory=lambda: defaultdict(list))  # by reason
    notes: list[str] = field(default_factory=list)


def sites_of(atoms: list[Atom]) -> list[Site]:
    """The residues in the order of the file.

    Atoms of one chain, number and insertion code are a residue until one comes twice: then another
    begins. What comes later under the same number and has no atom twice (locations or hydrogens
    behind the chain) belongs to it as well.
    """
    groups: list[list[Atom]] = []
    seen: list[set[tuple[str, str, str]]] = []
    latest: dict[tuple, int] = {}
    last: tuple = ()
    for atom in atoms:
        key = (atom.chain, atom.segment, atom.end, atom.label, atom.insertion)
        mark = (atom.name, atom.altloc, atom.residue if atom.altloc else "")
        # Side chain atoms that come twice are locations without letters, as in old files.
        new = key != last or (mark in seen[-1] and atom.name in ("N", "CA", groups[-1][0].name))
        if new or (atom.residue != groups[-1][-1].residue and not atom.altloc):
            groups.append([])
            seen.append(set())
        groups[-1].append(atom)
        seen[-1].add(mark)
        last = key
    merged: list[list[Atom]] = []
    marks: list[set[tuple[str, str, str]]] = []
    for group, own in zip(groups, seen, strict=True):
        one = group[0]
        key = (one.chain, one.segment, one.end, one.label, one.insertion)
        at = latest.get(key)
        same = at is not None and (one.altloc or one.residue == merged[at][0].residue)
        if same and at is not None and not own & marks[at]:
            merged[at] += group
            marks[at] |= own
            continue
        latest[key] = len(merged)
        merged.append(group)
        marks.append(own)
    return [_one_location(group) for group in merged]


def _one_location(group: list[Atom]) -> Site:
    """The location of highest occupancy, the first of several, of those that have a CA atom."""
    letters = dict.fromkeys(atom.altloc for atom in group if atom.altloc)

    def rank(letter: str) -> tuple[bool, float]:
        own = [atom for atom in group if atom.altloc == letter]
        parts = [0.0 if math.isnan(atom.occupancy) else atom.occupancy for atom in own]
        alpha = any(a.name == "CA" and a.place and a.altloc in ("", letter) for a in group)
        return alpha, round(sum(parts) / len(parts), 6)

    chosen = max(letters, key=rank) if letters else ""
    first = next((atom for atom in group if atom.altloc == chosen), group[0])
    order = [atom for letter in ("", chosen, *letters) for atom in group if atom.altloc == letter]
    placed: dict[str, Atom] = {}
    for atom in order:
        if atom.place and (atom.residue == first.residue or not atom.altloc):
            other = placed.setdefault(atom.name, atom)
            if other.altloc == atom.altloc and atom.occupancy > other.occupancy:
                placed[atom.name] = atom
    names = {atom.name for atom in group if atom.residue == first.residue}
    name = residue_names.standard_name(first.residue, first.altloc, names, first.hetero)
    residue = first.residue
    if (
        name != residue
        and not name.startswith(residue)
        and first.altloc + residue in residue_names.NAMES
    ):
        residue = first.altloc + residue
    alpha = placed.get("CA")
    ion = residue in residue_names.CALCIUM
    if alpha is not None and alpha.element == "CA":
        ion |= not ({"N", "C"} & placed.keys() or residue_names.is_amino_acid(name))
    if ion:
        placed.pop("CA", None)
    return Site(
        chain=first.chain,
        segment=first.segment,
        end=first.end,
        number=first.number,
        insertion=first.insertion,
        residue=residue,
        name=name,
        hetero=first.hetero,
        atoms=placed,
        unplaced="CA" in names and "CA" not in placed and not ion,
    )


def sort_sites(sites: list[Site]) -> Sorted:
    """Nodes with their chains, and all else.

    Raises:
        UnreadableStructure: coordinates that are in no unit of atoms.
    """
    found, nodes = Sorted(), []
    for site in sites:
        amino = residue_names.is_amino_acid(site.name)
        whole = all(name in site.atoms for name in ("N", "CA", "C"))
        other = site.hetero or residue_names.is_other_compound(site.name)
        if site.residue in residue_names.CAPS:
            found.caps.append(site)
        if site.unplaced:
            found.left["their CA atom has no coordinates"].append(site)
        elif "CA" not in site.atoms:
            if amino and not site.hetero:
                found.lacking.append(site)
        elif amino or whole or not other:
            nodes.append(site)
        else:
            found.left["they are no amino acids"].append(site)
    _check_unit(nodes, found.notes)
    nodes = _without_twins(nodes, found)
    by_chain: dict[str, list[Site]] = {}
    for site in nodes:
        by_chain.setdefault(site.chain or site.segment, []).append(site)
    for name, members in by_chain.items():
        kept, ligands = _thread(members)
        if ligands:
            found.left["they are bonded to no chain"] += ligands
        parts = _part(kept)
        for number, part in enumerate(parts, start=1):
            found.chain += [len(found.chains)] * len(part)
            found.nodes += part
            found.chains.append(name if number == 1 else f"{name}#{number}")
        if len(parts) > 1:
            told = f"{len(parts)} chains are called {name!r}; they are told apart as {name!r}"
            found.notes.append(f"{told} to {f'{name}#{len(parts)}'!r}")
    return found


def bonded(one: Site, other: Site) -> bool:
    """Whether a peptide bond leads from one residue to the other."""
    c, n = one.place("C"), other.place("N")
    if c and n:
        return math.dist(c, n) <= PEPTIDE
    return math.dist(one.place("CA") or c, other.place("CA") or n) <= STEP  # type: ignore[arg-type]


def _check_unit(nodes: list[Site], notes: list[str]) -> None:
    steps = [
        math.dist(one.atoms["CA"].place, other.atoms["CA"].place)  # type: ignore[arg-type]
        for one, other in itertools.pairwise(nodes)
        if one.chain == other.chain and other.number - one.number == 1
    ]
    if len(steps) < 3:
        return
    middle = float(np.median(steps))
    told = f"CA atoms of neighbours in a chain are {middle:.2f} apart, and 3.8 Å are expected"
    if middle < _SAME:
        raise UnreadableStructure(f"{told}; if it is in nm, multiply its coordinates by 10")
    if not _STEPS[0] <= middle <= _STEPS[1]:
        notes.append(f"{told}: are its coordinates in Å?")


def _without_twins(nodes: list[Site], found: Sorted) -> list[Site]:
    """Of CA atoms at one place that of the highest occupancy, the first of several."""
    if len(nodes) < 2:
        return nodes
    ca = np.array([site.atoms["CA"].place for site in nodes])
    near = cKDTree(ca).query_pairs(_SAME, output_type="ndarray").reshape(-1, 2)
    if not len(near):
        return nodes
    shares = [site.atoms["CA"].occupancy for site in nodes]
    share = np.nan_to_num(np.array(shares))
    neighbours: dict[int, set[int]] = defaultdict(set)
    for a, b in near.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    out: set[int] = set()
    for at in sorted(neighbours, key=lambda n: (-share[n], n)):
        if at not in out:
            out |= neighbours[at]
    found.left["they are at the place of another residue"] += [nodes[at] for at in sorted(out)]
    return [site for at, site in enumerate(nodes) if at not in out]


def _thread(members: list[Site]) -> tuple[list[Site], list[Site]]:
    """HETATM without bonds to its neighbours: at its place in the chain, or a ligand."""
    links = [bonded(one, other) for one, other in itertools.pairwise(members)]
    tied = [before or after for before, after in zip([False, *links], [*links, False], strict=True)]
    loose = [site for site, held in zip(members, tied, strict=True) if site.hetero and not held]
    if not loose:
        return members, []
    gone = set(map(id, loose))
    kept, ligands = [site for site in members if id(site) not in gone], []
    # Two residues that a ligand parts in the file may be bonded; and some tools put all HETATM
    # last.
    for site in loose:
        after = next((at + 1 for at, one in enumerate(kept) if _joined(one, site)), None)
        at = after or next((at for at, one in enumerate(kept) if _joined(site, one)), None)
        if at is None:
            ligands.append(site)
        else:
            kept.insert(at, site)
    return kept, ligands


def _joined(one: Site, other: Site) -> bool:
    c, n = one.place("C"), other.place("N")
    return c is not None and n is not None and math.dist(c, n) <= PEPTIDE


def _part(members: list[Site]) -> list[list[Site]]:
    """Chains of one name.

    Residues that are bonded are of one chain. Elsewhere a chain ends at TER, at another segment,
    and at the atoms of a last residue; and where numbers fall and come again that were there
    before.
    """
    runs: list[tuple[bool, list[Site]]] = []
    for at, site in enumerate(members):
        before = members[at - 1] if at else None
        if before is not None and bonded(before, site):
            runs[-1][1].append(site)
            continue
        hard = before is None or before.end != site.end or before.segment != site.segment
        hard = hard or (before is not None and bool(_LAST & before.atoms.keys()))
        if hard or (before is not None and site.number <= before.number):
            runs.append((hard, [site]))
        else:
            runs[-1][1].append(site)
    parts: list[list[Site]] = []
    taken: set[tuple[int, str]] = set()
    for hard, run in runs:
        keys = {(site.number, site.insertion) for site in run}
        if hard or keys & taken:
            parts.append(list(run))
            taken = keys
        else:
            parts[-1] += run
            taken |= keys
    return parts
