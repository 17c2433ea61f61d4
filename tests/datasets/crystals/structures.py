"""Crystals for tests, and the same crystals described in other ways."""

import numpy as np

from graphformer.datasets import Crystal

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2


def rock_salt(a=5.64):
    return Crystal(a * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], ("Na", "Cl"))


def rock_salt_cubic(a=5.64):
    """The same crystal in its conventional cell."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Crystal(
        a * np.eye(3), np.concatenate([corners, corners + 0.5]), ("Na",) * 4 + ("Cl",) * 4
    )


def diamond(a=3.567):
    return Crystal(a * FCC, [[0, 0, 0], [0.25, 0.25, 0.25]], ("C", "C"))


def magnesium(a=3.209, c=5.211):
    """Hexagonal close packing."""
    cell = [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]
    return Crystal(cell, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], ("Mg", "Mg"))


def perovskite(a=3.905):
    places = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Crystal(a * np.eye(3), places, ("Sr", "Ti", "O", "O", "O"))


def copper(a=3.615):
    """One atom, all of whose neighbours are its own images."""
    return Crystal(a * FCC, [[0, 0, 0]], ("Cu",))


def triclinic():
    """Nothing about it is symmetric."""
    cell = [[3.1, 0.2, -0.4], [0.7, 4.3, 0.5], [-1.1, 0.3, 5.7]]
    places = [[0.1, 0.2, 0.3], [0.62, 0.45, 0.71], [0.35, 0.83, 0.52]]
    return Crystal(cell, places, ("Fe", "O", "S"))


ALL = (rock_salt, diamond, magnesium, perovskite, copper, triclinic)


def supercell(crystal, times):
    """So many cells along each vector as one cell."""
    times = np.array(times)
    cells = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 1, 3)
    places = ((crystal.fractional + cells) / times).reshape(-1, 3)
    names = crystal.elements * len(cells)
    return Crystal(crystal.cell * times[:, None], places, names)


def moved(crystal, random):
    """Every atom by lattice vectors of its own, all by one vector."""
    steps = random.integers(-3, 4, crystal.fractional.shape) + random.random(3)
    return Crystal(crystal.cell, crystal.fractional + steps, crystal.elements)


def other_cell(crystal, random):
    """Another cell of the same lattice, sheared by whole vectors, sometimes left-handed."""
    change = np.eye(3)[random.permutation(3)]
    for _ in range(4):
        a, b = random.permutation(3)[:2]
        change[a] += random.integers(-2, 3) * change[b]
    places = crystal.fractional @ np.linalg.inv(change)
    return Crystal(change @ crystal.cell, places, crystal.elements)


def turned(crystal, random):
    turn = np.linalg.qr(random.standard_normal((3, 3)))[0]
    return Crystal(crystal.cell @ turn, crystal.fractional, crystal.elements)
