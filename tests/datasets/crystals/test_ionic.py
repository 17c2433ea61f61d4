"""Electrostatic energies against Madelung's constants and laws of scale, and the crystals that have
them as targets.
"""

import numpy as np
import pytest
import torch

from graphformer.datasets import IonicCrystals, crystal_graph, electrostatic_energy
from graphformer.datasets.crystals.ewald import COULOMB
from graphformer.datasets.crystals.ionic import (
    IONS,
    energy_per_atom,
    ionic_crystal,
    prototypes,
)
from tests.datasets.crystals.structures import moved, other_cell, supercell, turned

# Madelung's constants of a formula unit, by the distance of nearest ions; charges 1, or as told
MADELUNG = {
    "rock salt": 1.747564594633,
    "caesium chloride": 1.762674773071,
    "zinc blende": 1.638055053389,
    "wurtzite": 1.641321627,
    "fluorite": 5.038784880,
    "antifluorite": 5.038784880,
}


@pytest.mark.parametrize("name", MADELUNG)
def test_madelung_constants(name):
    kind = prototypes()[name]
    charges = [kind.charges[0][k] for k in kind.kinds]
    units = kind.kinds.count(0) if name != "antifluorite" else 1
    found = electrostatic_energy(kind.cell, kind.places @ kind.cell, charges)
    assert -found / COULOMB / units == pytest.approx(MADELUNG[name], abs=2e-9)


def test_energies_know_no_cell():
    random = np.random.default_rng(2)
    for index in range(12):
        crystal = ionic_crystal(5, index)
        want = energy_per_atom(crystal)
        for change in (moved, other_cell, turned):
            assert energy_per_atom(change(crystal, random)) == pytest.approx(want, rel=1e-11)
        assert energy_per_atom(supercell(crystal, (2, 1, 1))) == pytest.approx(want, rel=1e-11)


def test_energy_is_the_limit_of_a_direct_sum():
    """Evjen's sum: ions of a growing cube of rock salt, those on its surface counted in part."""
    n = 14
    side = np.arange(-n, n + 1)
    part = np.where(np.abs(side) == n, 0.5, 1.0)
    x, y, z = np.meshgrid(side, side, side, indexing="ij")
    weight = part[:, None, None] * part[:, None] * part
    far = np.sqrt(x**2 + y**2 + z**2)
    far[n, n, n] = np.inf
    direct = (weight * (-1.0) ** (x + y + z) / far).sum()
    kind = prototypes()["rock salt"]
    found = electrostatic_energy(kind.cell, kind.places @ kind.cell, (1, -1)) / COULOMB
    assert found == pytest.approx(direct, abs=1e-5)


def test_what_has_no_energy():
    with pytest.raises(ValueError, match="charges must sum to 0, got 1: such a crystal has no"):
        electrostatic_energy(np.eye(3), np.zeros((1, 3)), [1.0])
    with pytest.raises(ValueError, match=r"charges must be \[1\], one an atom, got shape \(2,\)"):
        electrostatic_energy(np.eye(3), np.zeros((1, 3)), [1.0, -1.0])
    from tests.datasets.crystals.structures import copper

    with pytest.raises(ValueError, match="elements: Cu has no charge here; known: Li"):
        energy_per_atom(copper())


def test_the_data_set(tmp_path):
    made = IonicCrystals(tmp_path, 9, 3, cutoff=4.0, gaussians=7, log=False)
    assert len(made) == 9 and made.target_names == ("energy",)
    crystal = made.crystal(4)
    want = crystal_graph(crystal, cutoff=4.0, gaussians=7)
    assert torch.equal(made[4].edge_attr, want.edge_attr) and made[4].formula == crystal.formula
    assert float(made[4].y) == pytest.approx(energy_per_atom(crystal), rel=1e-6)
    more = IonicCrystals(None, 11, 3, cutoff=4.0, gaussians=7, log=False)
    assert torch.equal(more[4].y, made[4].y)
    kept = IonicCrystals(tmp_path, 9, 3, cutoff=4.0, gaussians=7, log=False)
    assert torch.equal(kept[8].x, made[8].x)
    charges = [IONS[symbol][0] for symbol in crystal.elements]
    assert sum(charges) == 0
    with pytest.raises(IndexError, match="index 9 is out of range for 9 crystals"):
        made.crystal(9)
    with pytest.raises(ValueError, match="num_graphs must be at least 1, got 0"):
        IonicCrystals(None, 0)
