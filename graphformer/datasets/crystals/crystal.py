"""A crystal as a value, and its graph."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.crystals.elements import SYMBOLS, atomic_number, element_features
from graphformer.datasets.crystals.neighbors import check_cell, periodic_neighbors
from graphformer.datasets.store.arrays import plain
from graphformer.errors import number, whole

CLOSEST = 0.5
"""Å. No two atoms of matter are closer; hydrogen's are 0.74 apart."""


@dataclass(frozen=True, eq=False)
class Crystal:
    """Atoms in a periodic cell.

    Attributes:
        cell: ``[3, 3]``, a lattice vector a row, in Å.
        fractional: ``[N, 3]``, coordinates along these vectors; any image of an atom.
        elements: a symbol an atom.

    Raises:
        ValueError: a cell without volume, numbers that are not finite, symbols that are no
            elements, no atoms, or another number of symbols than of atoms.
    """

    cell: np.ndarray
    fractional: np.ndarray
    elements: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("cell", "fractional"):
            object.__setattr__(self, name, plain(name, getattr(self, name), float))
        object.__setattr__(self, "elements", tuple(self.elements))
        check_cell(self.cell)
        if self.fractional.shape != (len(self.elements), 3):
            raise ValueError(
                f"fractional must be [{len(self.elements)}, 3], a row for each of elements, got "
                f"shape {self.fractional.shape}."
            )
        if not self.elements:
            raise ValueError("elements is empty: a crystal has atoms.")
        if not np.isfinite(self.fractional).all():
            atom = int(np.argwhere(~np.isfinite(self.fractional))[0, 0])
            raise ValueError(
                f"fractional: atom {atom} ({self.elements[atom]}) has coordinates that are not "
                f"finite, {self.fractional[atom].tolist()}."
            )
        for atom, symbol in enumerate(self.elements):
            if not atomic_number(symbol):
                raise ValueError(f"elements: atom {atom} is {symbol!r}, which is no element.")

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers, int64 ``[N]``."""
        return np.array([atomic_number(symbol) for symbol in self.elements], dtype=np.int64)

    @property
    def positions(self) -> np.ndarray:
        """Cartesian, ``[N, 3]``, in Å."""
        return self.fractional @ self.cell

    @property
    def formula(self) -> str:
        """Elements in alphabetical order with their smallest whole shares, ``"CaO3Ti"``."""
        counts = Counter(SYMBOLS[z - 1] for z in self.numbers.tolist())
        shared = math.gcd(*counts.values())
        parts = ((symbol, counts[symbol] // shared) for symbol in sorted(counts))
        return "".join(f"{symbol}{times if times > 1 else ''}" for symbol, times in parts)

    def as_dict(self) -> dict[str, Any]:
        """As pymatgen's ``Structure.as_dict`` writes it: ``json.dumps`` of it is a file that both
        libraries read.
        """
        sites = [
            {
                "species": [{"element": symbol, "occu": 1}],
                "abc": place.tolist(),
                "xyz": xyz.tolist(),
                "label": symbol,
                "properties": {},
            }
            for symbol, place, xyz in zip(
                self.elements, self.fractional, self.positions, strict=True
            )
        ]
        return {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": 0,
            "lattice": {"matrix": self.cell.tolist(), "pbc": [True, True, True]},
            "properties": {},
            "sites": sites,
        }


def edge_names(cutoff: float, gaussians: int) -> tuple[str, ...]:
    """The columns of ``edge_attr`` of :func:`crystal_graph`."""
    centres = np.linspace(0.0, cutoff, gaussians)
    return ("distance", *(f"gaussian_{centre:.3g}" for centre in centres))


def crystal_graph(
    crystal: Crystal,
    *,
    cutoff: float = 5.0,
    neighbors: int | None = None,
    gaussians: int = 32,
    tolerance: float = 1e-3,
    y: Any = None,
) -> Data:
    """The graph of a crystal: a node an atom of the cell, an edge to it from each of its neighbours
    in all periodic images (:func:`~graphformer.datasets.periodic_neighbors`).

    Several images of one atom make parallel edges, and an atom's own images loops. What a network
    computes of ``x``, ``edge_index`` and ``edge_attr`` alone depends neither on the cell that
    describes the crystal nor on its orientation; where nodes are read out by means or maxima,
    supercells get the same answer too.

    - ``x`` ``[N, 144]``: element, period and group, one-hot
      (:data:`~graphformer.datasets.crystals.elements.ELEMENT_NAMES`).
    - ``edge_attr`` ``[E, 1 + gaussians]``: the distance d in Å, and
      ``exp(-((d - c_k) / s)^2 / 2)`` with centres ``c_k`` from 0 to ``cutoff``, ``s`` apart.
    - ``edge_vector`` ``[E, 3]``: from the receiver to the sender, in Å. ``edge_image`` int64
      ``[E, 3]``: the sender's cell, seen from the receiver's:
      ``edge_vector = pos[sender] + edge_image @ cell - pos[receiver]``.
    - ``pos`` ``[N, 3]``: Cartesian, in Å; ``cell`` ``[1, 3, 3]``; ``atomic_number`` int64 ``[N]``;
      ``formula``.

    Args:
        crystal: the crystal.
        cutoff: the greatest distance of neighbours, in Å.
        neighbors: of these the so many nearest, with all that are equally far as the last one.
        gaussians: how many, 2 or more.
        tolerance: of equal distances, in Å.
        y: kept as ``y``.

    Floating numbers are of torch's default dtype.

    Raises:
        ValueError: atoms closer than 0.5 Å, which is one atom twice or another unit, and arguments
            out of range.

    Source: edges and Gaussians as in CGCNN, Xie and Grossman, Phys. Rev. Lett. 120 (2018) 145301.
    """
    number("cutoff", cutoff, above=CLOSEST)
    whole("gaussians", gaussians, 2)
    pos = crystal.positions
    found = periodic_neighbors(crystal.cell, pos, cutoff, neighbors, tolerance=tolerance)
    if len(found.distances) and (least := found.distances.min()) < CLOSEST:
        e = int(found.distances.argmin())
        i, j = int(found.receivers[e]), int(found.senders[e])
        names = f"{i} ({crystal.elements[i]}) and {j} ({crystal.elements[j]})"
        raise ValueError(
            f"atoms {names} are {least:.3g} Å apart: one atom is there twice, or lengths are not "
            "in Å."
        )
    centres, spacing = np.linspace(0.0, cutoff, gaussians, retstep=True)
    bumps = np.exp(-(((found.distances[:, None] - centres) / spacing) ** 2) / 2)
    edge_attr = np.concatenate([found.distances[:, None], bumps], 1)
    dtype = torch.get_default_dtype()
    return Data(
        x=torch.from_numpy(element_features(crystal.numbers)).to(dtype),
        edge_index=torch.from_numpy(np.stack([found.senders, found.receivers])),
        edge_attr=torch.from_numpy(edge_attr).to(dtype),
        edge_vector=torch.from_numpy(found.vectors).to(dtype),
        edge_image=torch.from_numpy(found.images),
        pos=torch.from_numpy(pos).to(dtype),
        cell=torch.from_numpy(crystal.cell)[None].to(dtype),
        atomic_number=torch.from_numpy(crystal.numbers),
        formula=crystal.formula,
        **({} if y is None else {"y": y}),
    )
