"""The electrostatic energy of point charges in a crystal, exactly: Ewald's sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import erfc

from graphformer.datasets.crystals.neighbors import check_cell, periodic_neighbors
from graphformer.datasets.store.arrays import plain

COULOMB = 14.3996454784
"""e^2 / (4 pi epsilon_0), in eV Å (CODATA 2018)."""

PRECISION = 1e-14


def electrostatic_energy(
    cell: np.ndarray, pos: np.ndarray, charges: Sequence[float] | np.ndarray
) -> float:
    r"""Energy of a cell of point charges and all its images, in eV.

    .. math::
        \frac{E}{k} = \frac12 \sum_{ijn}' q_i q_j \frac{\mathrm{erfc}(\alpha r_{ijn})}{r_{ijn}}
        + \frac{2 \pi}{V} \sum_{G \ne 0} \frac{e^{-G^2 / 4 \alpha^2}}{G^2}
        \left| \sum_i q_i e^{i G x_i} \right|^2
        - \frac{\alpha}{\sqrt \pi} \sum_i q_i^2

    without a surface (the crystal stands in a conductor). ``alpha`` only shares the work between
    the sums; both run until terms are below 1e-14 of the first.

    Args:
        cell: ``[3, 3]``, a lattice vector a row, in Å.
        pos: ``[N, 3]``, Cartesian, in Å.
        charges: ``[N]``, in elementary charges, of sum 0.

    Raises:
        ValueError: charges whose sum is not 0, or of another number than atoms.

    Source: Ewald, Ann. Phys. 369 (1921) 253.
    """
    given = {"cell": cell, "pos": pos, "charges": charges}
    cell, pos, q = (plain(name, value, float) for name, value in given.items())
    check_cell(cell)
    if q.shape != (len(pos),):
        raise ValueError(f"charges must be [{len(pos)}], one an atom, got shape {q.shape}.")
    if abs(q.sum()) > 1e-9 * max(np.abs(q).sum(), 1.0):
        raise ValueError(f"charges must sum to 0, got {q.sum():g}: such a crystal has no energy.")
    volume = abs(np.linalg.det(cell))
    alpha = np.sqrt(np.pi) * (len(pos) / volume**2) ** (1 / 6)
    reach = np.sqrt(-np.log(PRECISION))
    near = periodic_neighbors(cell, pos, reach / alpha)
    pairs = q[near.senders] * q[near.receivers]
    real = (pairs * erfc(alpha * near.distances) / near.distances).sum() / 2

    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    most = np.ceil(2 * alpha * reach * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int)
    steps = np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij")
    waves = np.stack(steps, -1).reshape(-1, 3) @ reciprocal
    square = (waves**2).sum(1)
    inside = (square > 0) & (square <= (2 * alpha * reach) ** 2)
    waves, square = waves[inside], square[inside]
    factor = np.exp(1j * waves @ pos.T) @ q
    weight = np.exp(-square / (4 * alpha**2)) / square
    waved = 2 * np.pi / volume * (weight * np.abs(factor) ** 2).sum()
    return float(COULOMB * (real + waved - alpha / np.sqrt(np.pi) * (q**2).sum()))
