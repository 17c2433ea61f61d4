"""Neighbours in all periodic images: against gemmi's, against all images one by one, and numbers
that textbooks have.
"""

from collections import Counter

import numpy as np
import pytest

from graphformer.datasets import periodic_neighbors
from graphformer.datasets.crystals.neighbors import reduced
from tests.datasets.crystals import structures
from tests.datasets.crystals.structures import ALL, other_cell, supercell


def one_by_one(cell, pos, cutoff, most):
    """Every image up to ``most`` cells away, and no tree."""
    found = []
    for i in range(len(pos)):
        for j in range(len(pos)):
            for image in np.ndindex(*(2 * most + 1,) * 3):
                n = np.array(image) - most
                far = np.linalg.norm(pos[j] + n @ cell - pos[i])
                if far <= cutoff and (i != j or n.any()):
                    found.append((i, j, *n.tolist()))
    return sorted(found)


@pytest.mark.parametrize("make", ALL)
def test_all_images_one_by_one(make):
    crystal = make()
    got = periodic_neighbors(crystal.cell, crystal.positions, 4.4)
    rows = np.column_stack([got.receivers, got.senders, got.images])
    assert [tuple(row) for row in rows.tolist()] == one_by_one(
        crystal.cell, crystal.positions, 4.4, 3
    )
    # what each row says of itself
    pos = crystal.positions
    want = pos[got.senders] + got.images @ crystal.cell - pos[got.receivers]
    np.testing.assert_allclose(got.vectors, want, atol=1e-12)
    np.testing.assert_allclose(got.distances, np.linalg.norm(want, axis=1), atol=1e-12)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("cutoff", [3.3, 4.7, 6.1])
def test_gemmi_counts_the_same(make, cutoff):
    """In three cells along each vector: gemmi's search looks one cell in each direction."""
    gemmi = pytest.importorskip("gemmi")
    crystal = supercell(make(), (3, 3, 3))
    lengths = np.linalg.norm(crystal.cell, axis=1)
    cosines = (crystal.cell @ crystal.cell.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(cosines[[1, 0, 0], [2, 2, 1]]))
    structure = gemmi.SmallStructure()
    structure.cell = gemmi.UnitCell(*lengths, *angles)
    for number, (symbol, place) in enumerate(
        zip(crystal.elements, crystal.fractional, strict=True)
    ):
        site = gemmi.SmallStructure.Site()
        site.label, site.element = f"{symbol}{number}", gemmi.Element(symbol)
        site.fract = gemmi.Fractional(*place)
        structure.add_site(site)
    structure.spacegroup_hm = "P 1"
    structure.determine_and_set_spacegroup("h")
    search = gemmi.NeighborSearch(structure, cutoff).populate()
    want = Counter(
        (i, mark.atom_idx)
        for i, site in enumerate(structure.sites)
        for mark in search.find_site_neighbors(site, min_dist=0.1, max_dist=cutoff)
    )
    got = periodic_neighbors(crystal.cell, crystal.positions, cutoff)
    assert Counter(zip(got.receivers.tolist(), got.senders.tolist(), strict=True)) == want


@pytest.mark.parametrize(
    ("make", "shells"),
    [
        ("copper", [(2.5562, 12), (3.615, 6), (4.4275, 24)]),
        ("diamond", [(1.5446, 4), (2.5222, 12), (2.9576, 12)]),
        ("rock_salt", [(2.82, 6), (3.9881, 12), (4.8844, 8)]),
    ],
)
def test_coordination_shells(make, shells):
    crystal = getattr(structures, make)()
    got = periodic_neighbors(crystal.cell, crystal.positions, shells[-1][0] + 0.01)
    first = got.distances[got.receivers == 0]
    counts = Counter(np.round(first, 3).tolist())
    assert sorted(counts.items()) == [(pytest.approx(far, abs=1e-3), n) for far, n in shells]


def test_an_atom_is_its_own_neighbour_in_other_cells():
    crystal = structures.copper()
    got = periodic_neighbors(crystal.cell, crystal.positions, 2.6)
    assert len(got.senders) == 12 and not got.senders.any() and not got.receivers.any()
    assert len({tuple(n) for n in got.images.tolist()}) == 12 and got.images.any(1).all()


def test_the_nearest_with_all_that_are_as_far():
    """Six of twelve equally near atoms would be six that rounding chose."""
    crystal = structures.copper()
    for k, count in ((1, 12), (6, 12), (12, 12), (13, 18), (18, 18), (19, 42)):
        assert len(periodic_neighbors(crystal.cell, crystal.positions, 5.0, k).senders) == count
    # more than there are
    assert len(periodic_neighbors(crystal.cell, crystal.positions, 2.6, 99).senders) == 12
    # of different distances exactly so many
    crystal = structures.triclinic()
    got = periodic_neighbors(crystal.cell, crystal.positions, 6.0, 5)
    every = periodic_neighbors(crystal.cell, crystal.positions, 6.0)
    for i in range(3):
        mine = got.distances[got.receivers == i]
        nearest = np.sort(every.distances[every.receivers == i])
        assert mine.max() <= nearest[4] + 1e-3 and len(mine) == (nearest <= nearest[4] + 1e-3).sum()


def test_a_skew_cell_costs_no_more(seed):
    """A vector that goes round a thousand cells would have millions of images in its reach."""
    crystal = structures.rock_salt()
    skew = crystal.cell.copy()
    skew[0] += 1000 * skew[1] - 999 * skew[2]
    np.testing.assert_allclose(abs(np.linalg.det(reduced(skew))), abs(np.linalg.det(skew)))
    got = periodic_neighbors(skew, crystal.positions, 4.0)
    want = periodic_neighbors(crystal.cell, crystal.positions, 4.0)
    np.testing.assert_allclose(np.sort(got.distances), np.sort(want.distances), atol=1e-9)


def test_other_cells_have_the_same_neighbours():
    random = np.random.default_rng(0)
    for make in ALL:
        crystal = make()
        want = periodic_neighbors(crystal.cell, crystal.positions, 5.0)
        for _ in range(5):
            other = other_cell(crystal, random)
            got = periodic_neighbors(other.cell, other.positions, 5.0)
            assert np.array_equal(got.receivers, want.receivers)
            np.testing.assert_allclose(
                got.vectors[np.lexsort((*got.vectors.T.round(6), got.receivers))],
                want.vectors[np.lexsort((*want.vectors.T.round(6), want.receivers))],
                atol=1e-9,
            )


def test_what_is_no_crystal():
    pos = np.zeros((1, 3))
    with pytest.raises(ValueError, match=r"cell has no volume \(0 of 1\.41\): its vectors lie in"):
        periodic_neighbors([[1, 0, 0], [0, 1, 0], [1, 1, 0]], pos, 3.0)
    with pytest.raises(ValueError, match=r"cell must be finite numbers \[3, 3\]"):
        periodic_neighbors(np.full((3, 3), np.nan), pos, 3.0)
    with pytest.raises(ValueError, match=r"pos must be finite numbers \[N, 3\], got shape \(2,\)"):
        periodic_neighbors(np.eye(3), [0.0, 1.0], 3.0)
    with pytest.raises(ValueError, match=r"cutoff=400\.0: 1 atoms have [\d,]+ images in its reach"):
        periodic_neighbors(np.eye(3), pos, 400.0)
    with pytest.raises(ValueError, match="cutoff must be above 0, got -1"):
        periodic_neighbors(np.eye(3), pos, -1)
    with pytest.raises(ValueError, match="neighbors must be at least 1, got 0"):
        periodic_neighbors(np.eye(3), pos, 3.0, 0)
