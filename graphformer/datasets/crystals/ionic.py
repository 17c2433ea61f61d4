"""Ionic crystals from a seed, with their electrostatic energy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.crystals.crystal import CLOSEST, Crystal, crystal_graph, edge_names
from graphformer.datasets.crystals.elements import ELEMENT_NAMES
from graphformer.datasets.crystals.ewald import electrostatic_energy
from graphformer.datasets.crystals.neighbors import periodic_neighbors
from graphformer.datasets.store.cache import GraphDataset
from graphformer.errors import number, strict_flags, whole

IONS = {
    "Li": (1, 0.76),
    "Na": (1, 1.02),
    "K": (1, 1.38),
    "Rb": (1, 1.52),
    "Cs": (1, 1.67),
    "Mg": (2, 0.72),
    "Ca": (2, 1.00),
    "Sr": (2, 1.18),
    "Ba": (2, 1.35),
    "Ti": (4, 0.605),
    "Zr": (4, 0.72),
    "F": (-1, 1.33),
    "Cl": (-1, 1.81),
    "Br": (-1, 1.96),
    "I": (-1, 2.20),
    "O": (-2, 1.40),
    "S": (-2, 1.84),
    "Se": (-2, 1.98),
}
"""Charge, and radius in Å with six neighbours (Shannon, Acta Cryst. A 32 (1976) 751)."""


class Prototype(NamedTuple):
    """A type of structure: its cell in units of the shortest distance between the first two ions'
    kinds, places, which kind stands at each, and charges that the kinds can have together.
    """

    cell: np.ndarray
    places: np.ndarray
    kinds: tuple[int, ...]
    charges: tuple[tuple[int, ...], ...]


_FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
_HEX = np.array([[1, 0, 0], [-0.5, np.sqrt(3) / 2, 0], [0, 0, np.sqrt(8 / 3)]])
_PAIRS = ((1, -1), (2, -2))


def _prototype(cell: np.ndarray, places: Any, kinds: tuple[int, ...], charges: Any) -> Prototype:
    """Scaled so that the nearest ions of kinds 0 and of the last kind are 1 apart."""
    cell, places = np.asarray(cell, dtype=float), np.asarray(places, dtype=float)
    near = periodic_neighbors(cell, places @ cell, 2.0)
    kind = np.array(kinds)
    # a perovskite's size is that of its smaller cation, which stands in the octahedron
    first = len(set(kinds)) - 2
    touch = (kind[near.senders] == first) & (kind[near.receivers] == first + 1)
    return Prototype(cell / near.distances[touch].min(), places, kinds, charges)


@functools.cache
def prototypes() -> dict[str, Prototype]:
    """The types of structures by name. The last kind is the anion."""
    u = 3 / 8
    return {
        "rock salt": _prototype(_FCC, [[0, 0, 0], [0.5] * 3], (0, 1), _PAIRS),
        "caesium chloride": _prototype(np.eye(3), [[0, 0, 0], [0.5] * 3], (0, 1), _PAIRS),
        "zinc blende": _prototype(_FCC, [[0, 0, 0], [0.25] * 3], (0, 1), _PAIRS),
        "wurtzite": _prototype(
            _HEX,
            [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, u], [2 / 3, 1 / 3, 0.5 + u]],
            (0, 0, 1, 1),
            _PAIRS,
        ),
        "fluorite": _prototype(
            _FCC, [[0, 0, 0], [0.25] * 3, [0.75] * 3], (0, 1, 1), ((2, -1), (4, -2))
        ),
        "antifluorite": _prototype(
            _FCC, [[0.25] * 3, [0.75] * 3, [0, 0, 0]], (0, 0, 1), ((1, -2),)
        ),
        "perovskite": _prototype(
            np.eye(3),
            [[0.5] * 3, [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
            (0, 1, 2, 2, 2),
            ((2, 4, -2), (1, 2, -1)),
        ),
    }


class IonicCrystals(GraphDataset):
    """Ionic crystals from a seed, as :func:`~graphformer.datasets.crystal_graph` makes graphs of
    them, with the electrostatic energy of their point charges per atom, in eV, as ``y`` ``[1, 1]``
    (:func:`~graphformer.datasets.electrostatic_energy`).

    A crystal is one of seven types of structure (:func:`prototypes`) with ions that fit it, its
    nearest ions as far apart as their radii tell times 0.95 to 1.1, strained by about 2 percent and
    with every ion displaced by about 0.05 Å; one to four cells of the type, so that graphs have 2
    to 20 atoms. The energy depends on all ions to infinity, and atoms see those within ``cutoff``.

    Args:
        root: folder of the cache; None keeps the graphs in memory alone.
        num_graphs: how many. Graph ``i`` does not depend on it.
        seed: of all that is drawn.
        cutoff, neighbors, gaussians: as in :func:`~graphformer.datasets.crystal_graph`.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: an argument out of range.
    """

    version: ClassVar[int] = 1
    node_names: tuple[str, ...] = ELEMENT_NAMES
    target_names: tuple[str, ...] = ("energy",)

    @strict_flags
    def __init__(
        self,
        root: str | Path | None = None,
        num_graphs: int = 500,
        seed: int = 0,
        *,
        cutoff: float = 5.0,
        neighbors: int | None = None,
        gaussians: int = 32,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        self.num_graphs, self.seed = whole("num_graphs", num_graphs), whole("seed", seed, 0)
        number("cutoff", cutoff, above=CLOSEST)
        self.options: dict[str, Any] = {
            "cutoff": cutoff,
            "neighbors": neighbors,
            "gaussians": gaussians,
        }
        self.edge_names = edge_names(cutoff, whole("gaussians", gaussians, 2))
        settings = {
            **self.options,
            "num_graphs": num_graphs,
            "seed": seed,
            "dtype": str(torch.get_default_dtype()),
        }
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)

    def build(self) -> Iterator[Data]:
        """A graph an index."""
        for index in self.progress(range(self.num_graphs), self.num_graphs):
            crystal = ionic_crystal(self.seed, index)
            y = torch.tensor([[energy_per_atom(crystal)]], dtype=torch.get_default_dtype())
            data = crystal_graph(crystal, **self.options, y=y)
            data.name = f"{index}: {crystal.formula}"
            yield data

    def crystal(self, index: int) -> Crystal:
        """What graph ``index`` was made of (before any split or filter), made again."""
        if not 0 <= index < self.num_graphs:
            raise IndexError(f"index {index} is out of range for {self.num_graphs} crystals")
        return ionic_crystal(self.seed, index)


def energy_per_atom(crystal: Crystal) -> float:
    """Electrostatic energy of an ionic crystal over its number of atoms, in eV.

    Raises:
        ValueError: an element without a charge in :data:`IONS`, or charges whose sum is not 0.
    """
    if strange := sorted(set(crystal.elements) - set(IONS)):
        raise ValueError(f"elements: {strange[0]} has no charge here; known: {', '.join(IONS)}.")
    charges = [IONS[symbol][0] for symbol in crystal.elements]
    return electrostatic_energy(crystal.cell, crystal.positions, charges) / len(charges)


def ionic_crystal(seed: int, index: int) -> Crystal:
    """The crystal of a seed and an index, see :class:`IonicCrystals`."""
    random = np.random.default_rng([seed, index])
    known = list(prototypes().values())
    kind = known[random.integers(len(known))]
    charges = kind.charges[random.integers(len(kind.charges))]
    ions = [
        str(random.choice([name for name, (charge, _) in IONS.items() if charge == wanted]))
        for wanted in charges
    ]
    nearest = sum(IONS[name][1] for name in ions[-2:]) * random.uniform(0.95, 1.1)
    times = random.integers(1, 3, 3)
    times[random.integers(3)] = 1
    cell = nearest * kind.cell
    cells = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 1, 3)
    places = ((kind.places + cells) / times).reshape(-1, 3)
    cell = cell * times[:, None]
    strain = 0.02 * random.standard_normal((3, 3))
    cell = cell @ (np.eye(3) + (strain + strain.T) / 2)
    moved = places + 0.05 * random.standard_normal(places.shape) @ np.linalg.inv(cell)
    return Crystal(cell, moved, tuple(ions[k] for k in kind.kinds) * len(cells))
