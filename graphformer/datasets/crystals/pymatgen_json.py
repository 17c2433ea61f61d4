"""Crystals from JSON as pymatgen writes it: ``Structure.as_dict()``, alone, in a list, or as the
``structure`` of an entry.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from graphformer.datasets.crystals.cif import OCCUPANCY, Read
from graphformer.datasets.crystals.crystal import Crystal
from graphformer.datasets.crystals.elements import atomic_number
from graphformer.datasets.store.reading import UnreadableStructure

AGREE = 1e-2
"""Å. Cartesian coordinates that are farther from the fractional ones are of another structure, and
lengths that differ by more are of another lattice.
"""
AGREE_DEGREES = 0.1


def read_json(text: str) -> Read:
    """The crystals of a JSON file.

    Raises:
        UnreadableStructure: no JSON, or something else than structures.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UnreadableStructure(f"cannot be read as JSON ({error})") from None
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise UnreadableStructure("holds no crystal (an empty list)")
    read = Read()
    unread: set[str] = set()
    for number, one in enumerate(listed, start=1):
        several = f"structure {number}: " if len(listed) > 1 else ""
        inner = one.get("structure", one) if isinstance(one, dict) else None
        if not (isinstance(inner, dict) and {"lattice", "sites"} <= set(inner)):
            raise UnreadableStructure(
                f"{several}holds no crystal (a dictionary with 'lattice' and 'sites', as "
                "pymatgen's Structure.as_dict gives, is read)"
            )
        if inner is not one:
            unread |= {f"{name} of the entry" for name in one if name[:1] != "@"} - {
                "structure of the entry"
            }
        try:
            read.append(_crystal(inner, unread))
        except (UnreadableStructure, ValueError) as error:
            read.append(f"{several}{error}")
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            read.append(f"{several}is no structure as pymatgen writes it ({error!r})")
    if unread:
        read.notes.append(f"not read: {', '.join(sorted(unread))}")
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that comes twice Python would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return found


def _crystal(one: dict[str, Any], unread: set[str]) -> Crystal:
    lattice = one["lattice"]
    if not all(lattice.get("pbc", (True,) * 3)):
        raise UnreadableStructure(
            f"it is not periodic in all directions (pbc {lattice['pbc']}); crystals are read"
        )
    cell = np.array(lattice["matrix"], dtype=float)
    names, places = [], []
    for number, site in enumerate(one["sites"]):
        species, label = site["species"], site.get("label") or f"{number}"
        if len(species) != 1 or not abs(species[0]["occu"] - 1) < OCCUPANCY:
            shares = ", ".join(f"{part['element']} {part['occu']:g}" for part in species)
            raise UnreadableStructure(
                f"site {label} is partly occupied ({shares}): give an ordered structure"
            )
        symbol = species[0]["element"]
        if not atomic_number(symbol):
            raise UnreadableStructure(f"site {label}: {symbol} is no element")
        if species[0].get("oxidation_state"):
            unread.add("oxidation states")
        beside = ("element", "occu", "oxidation_state")
        unread |= {f"{name} of species" for name in species[0] if name not in beside}
        unread |= {f"site property {name}" for name in site.get("properties") or ()}
        names.append(symbol)
        places.append(site["abc"])
    fractional = np.array(places, dtype=float).reshape(-1, 3)
    crystal = Crystal(cell, fractional, tuple(names))
    given = [site.get("xyz") for site in one["sites"]]
    if None not in given:
        off = np.abs(crystal.positions - np.array(given, dtype=float)).max()
        if not off <= AGREE:
            raise UnreadableStructure(f"abc and xyz of its sites differ by {off:.3g} Å")
    for name, (said, read, most) in _of_lattice(lattice, cell).items():
        if not abs(said - read) <= most:
            raise UnreadableStructure(
                f"its lattice says {name}={said:g}, and its matrix has {name}={read:.6g}"
            )
    if one.get("charge"):
        unread.add("charge")
    unread |= {f"property {name}" for name in one.get("properties") or ()}
    known = ("lattice", "sites", "charge", "properties")
    unread |= {f"{name} of the structure" for name in one if name[:1] != "@" and name not in known}
    return crystal


def _of_lattice(lattice: dict[str, Any], cell: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Lengths in Å and angles in degrees that stand beside the matrix: as they are said, as the
    matrix has them, and by how much these may differ.
    """
    lengths = np.linalg.norm(cell, axis=1)
    found = dict(zip("abc", zip(lengths, (AGREE,) * 3, strict=True), strict=True))
    for name, (i, j) in {"alpha": (1, 2), "beta": (0, 2), "gamma": (0, 1)}.items():
        cosine = cell[i] @ cell[j] / (lengths[i] * lengths[j])
        found[name] = np.degrees(np.arccos(np.clip(cosine, -1, 1))), AGREE_DEGREES
    return {
        name: (float(lattice[name]), float(read), most)
        for name, (read, most) in found.items()
        if lattice.get(name) is not None
    }
