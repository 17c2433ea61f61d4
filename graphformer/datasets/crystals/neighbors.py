"""Neighbours of atoms in all periodic images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from graphformer.datasets.store.arrays import plain
from graphformer.errors import number, whole

POINT_LIMIT = 5_000_000
"""More images of atoms than this are refused before memory runs out."""


class Neighbors(NamedTuple):
    """A row a neighbour, ordered by receiver, sender and image.

    ``senders``, ``receivers`` int64 ``[E]``; ``images`` int64 ``[E, 3]``: in which cell the sender
    stands, seen from the receiver's; ``vectors`` ``[E, 3]`` from the receiver to the sender,
    ``pos[j] + image @ cell - pos[i]``, and ``distances`` ``[E]``, in the unit of ``cell``.
    """

    senders: np.ndarray
    receivers: np.ndarray
    images: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray


def periodic_neighbors(
    cell: np.ndarray,
    pos: np.ndarray,
    cutoff: float,
    neighbors: int | None = None,
    *,
    tolerance: float = 1e-3,
) -> Neighbors:
    """For each atom i all pairs of an atom j and a lattice vector n with
    ``0 < |pos_j + n @ cell - pos_i| <= cutoff + tolerance``.

    Several images of one atom are several neighbours, and an atom's own images are neighbours of
    it. Nothing depends on which cell describes the crystal, or on which of its images an atom is
    given by.

    Args:
        cell: ``[3, 3]``, a lattice vector a row, right- or left-handed.
        pos: ``[N, 3]``, Cartesian; atoms need not lie in the cell.
        cutoff: the greatest distance.
        neighbors: of these the so many nearest, and all that are as far as the last of them within
            ``tolerance``: a shell of equally distant atoms is taken whole, or which of them are
            would depend on rounding. Unless given, all.
        tolerance: distances that differ by less are equal.

    Raises:
        ValueError: a cell without volume, numbers that are not finite, or more images than
            :data:`POINT_LIMIT`.
    """
    cell, pos = plain("cell", cell, float), plain("pos", pos, float)
    number("cutoff", cutoff, above=0.0)
    number("tolerance", tolerance, least=0.0)
    if neighbors is not None:
        whole("neighbors", neighbors)
    check_cell(cell)
    if pos.ndim != 2 or pos.shape[1] != 3 or not np.isfinite(pos).all():
        raise ValueError(f"pos must be finite numbers [N, 3], got shape {pos.shape}.")
    reach = cutoff + tolerance
    near = reduced(cell)
    inverse = np.linalg.inv(near)
    home = pos @ inverse
    home -= np.floor(home)
    across = reach * np.linalg.norm(inverse, axis=0)  # the cutoff in units of each axis
    most = np.ceil(across).astype(int)
    total = len(pos) * np.prod(2.0 * most + 1)
    if total > POINT_LIMIT:
        raise ValueError(
            f"cutoff={cutoff}: {len(pos)} atoms have {total:,.0f} images in its reach, more than "
            f"{POINT_LIMIT:,}; take a smaller one (Å)."
        )
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), -1).reshape(
        -1, 1, 3
    )
    points = (home + steps).reshape(-1, 3)
    atom = np.tile(np.arange(len(pos)), len(steps))
    inside = ((points >= -across - 1e-9) & (points <= 1 + across + 1e-9)).all(1)
    points, atom = points[inside] @ near, atom[inside]
    found = cKDTree(points).query_ball_point(home @ near, reach) if len(pos) else []
    counts = np.array([len(one) for one in found], dtype=np.int64)
    receivers = np.repeat(np.arange(len(pos)), counts)
    places = np.concatenate([np.zeros(0, dtype=np.int64), *map(np.asarray, found)]).astype(int)
    senders = atom[places]
    # in the cell that was given, from the places that were given
    apart = points[places] - (home @ near)[receivers]
    images = np.rint((apart - pos[senders] + pos[receivers]) @ np.linalg.inv(cell)).astype(np.int64)
    keep = (senders != receivers) | images.any(1)
    senders, receivers, images = senders[keep], receivers[keep], images[keep]
    vectors = pos[senders] + images @ cell - pos[receivers]
    distances = np.linalg.norm(vectors, axis=1)
    if neighbors is not None:
        keep = _nearest(receivers, distances, len(pos), neighbors, tolerance)
        senders, receivers, images = senders[keep], receivers[keep], images[keep]
        vectors, distances = vectors[keep], distances[keep]
    order = np.lexsort((*images.T[::-1], senders, receivers))
    return Neighbors(
        senders[order], receivers[order], images[order], vectors[order], distances[order]
    )


def _nearest(
    receivers: np.ndarray, distances: np.ndarray, size: int, k: int, tolerance: float
) -> np.ndarray:
    """Which edges are among their receiver's ``k`` nearest, ties with the last included."""
    order = np.lexsort((distances, receivers))
    counts = np.bincount(receivers, minlength=size)
    starts = np.cumsum(counts) - counts
    last = np.full(size, np.inf)
    full = counts >= k
    last[full] = distances[order[starts[full] + k - 1]]
    return distances <= last[receivers] + tolerance


def check_cell(cell: np.ndarray) -> None:
    """ValueError for what is no cell of a crystal."""
    if cell.shape != (3, 3) or not np.isfinite(cell).all():
        raise ValueError(
            f"cell must be finite numbers [3, 3], a vector a row, got {cell.tolist()}."
        )
    lengths = np.linalg.norm(cell, axis=1)
    volume = abs(np.linalg.det(cell))
    if volume <= 1e-6 * np.prod(lengths):
        raise ValueError(
            f"cell has no volume ({volume:.3g} of {np.prod(lengths):.3g}): its vectors lie in a "
            "plane."
        )


def reduced(cell: np.ndarray) -> np.ndarray:
    """The same lattice by shorter vectors: from each the others are taken as often as shortens it,
    so that a cell however skew has few images in reach.
    """
    cell = cell.copy()
    changed = True
    while changed:
        changed = False
        for i, j in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
            times = np.rint(cell[i] @ cell[j] / (cell[j] @ cell[j]))
            shorter = cell[i] - times * cell[j]
            if times and shorter @ shorter < (cell[i] @ cell[i]) * (1 - 1e-9):
                cell[i], changed = shorter, True
    return cell
