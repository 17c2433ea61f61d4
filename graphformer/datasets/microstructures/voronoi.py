"""A periodic Voronoi polycrystal from a seed: where its grains are, what they are made of, and its
effective property.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from graphformer.datasets.microstructures.homogenize import (
    effective_conductivity,
    effective_stiffness,
    plane_strain,
)
from graphformer.datasets.store.arrays import plain
from graphformer.errors import whole


def voronoi_cells(seeds: np.ndarray, resolution: int) -> np.ndarray:
    """The periodic Voronoi cells of points in the unit square or cube: each voxel takes the number
    of the nearest seed.

    Args:
        seeds: ``[N, d]``, in [0, 1).
        resolution: voxels along each axis.

    Returns:
        int64 ``[resolution] * d``. A seed so close to another that no voxel's centre is nearest to
        it has no voxel.

    Raises:
        ValueError: no seeds, another shape, seeds out of range, a resolution below 1.
    """
    seeds = plain("seeds", seeds, float)
    if seeds.ndim != 2 or not seeds.size or not ((seeds >= 0) & (seeds < 1)).all():
        raise ValueError(
            f"seeds must be points [N, d] in [0, 1), at least one, got shape {seeds.shape}"
            + (f" from {seeds.min()} to {seeds.max()}." if seeds.size else ".")
        )
    whole("resolution", resolution)
    dim = seeds.shape[1]
    along = (np.arange(resolution) + 0.5) / resolution
    centres = np.stack(np.meshgrid(*[along] * dim, indexing="ij"), -1).reshape(-1, dim)
    return cKDTree(seeds, boxsize=1.0).query(centres)[1].reshape([resolution] * dim)


class Recipe(NamedTuple):
    """What decides a polycrystal besides its index. :class:`PolycrystalDataset` explains each."""

    num_grains: tuple[int, int]
    dim: int
    resolution: int
    seed: int
    property: str
    law: str
    sigma: float
    contrast: float
    fraction: float
    anisotropy: float
    target: str
    directions: bool


class Polycrystal(NamedTuple):
    """One polycrystal on voxels.

    ``labels`` is ``[resolution] * d``, grains from 0. ``properties`` is ``[N, P]`` with the columns
    of :func:`property_names`. ``effective`` is the effective tensor: ``[d, d]`` (conductivity) or
    ``[3, 3]`` (stiffness, Voigt's order).
    """

    labels: np.ndarray
    properties: np.ndarray
    effective: np.ndarray


def property_names(recipe: Recipe) -> tuple[str, ...]:
    """The columns that a grain's material adds to ``x``."""
    if recipe.property == "stiffness":
        return ("log_young", "poisson")
    return ("log_conductivity", *(("cos_2theta", "sin_2theta") if recipe.anisotropy != 1 else ()))


def target_names(recipe: Recipe) -> tuple[str, ...]:
    """The columns of ``y``."""
    if recipe.property == "stiffness":
        return (
            ("bulk", "shear")
            if recipe.target == "mean"
            else ("C00", "C11", "C22", "C01", "C02", "C12")
        )
    if recipe.target == "mean":
        return ("conductivity",)
    return ("k00", "k11", "k01") if recipe.dim == 2 else ("k00", "k11", "k22", "k01", "k02", "k12")


def make_polycrystal(recipe: Recipe, index: int) -> Polycrystal:
    """The polycrystal of this index: the same in every data set with this recipe, however many
    graphs it has.

    Where the grains are and what they are made of have random streams of their own, so that recipes
    that differ in the material, the resolution or the target share their grains.
    """
    place, material = (np.random.default_rng([recipe.seed, index, stream]) for stream in (0, 1))
    number = int(place.integers(recipe.num_grains[0], recipe.num_grains[1] + 1))
    labels = voronoi_cells(place.random((number, recipe.dim)), recipe.resolution)
    if recipe.law == "lognormal":
        value = np.exp(recipe.sigma * material.standard_normal(number))
    else:
        value = np.where(material.random(number) < recipe.fraction, recipe.contrast, 1.0)
    angle = np.pi * material.random(number)
    poisson = 0.2 + 0.2 * material.random(number)

    if recipe.property == "stiffness":
        columns = [np.log(value), poisson]
        effective = effective_stiffness(plane_strain(value, poisson)[labels])
    elif recipe.anisotropy == 1:
        columns = [np.log(value)]
        effective = effective_conductivity(value[labels])
    else:
        # An axis has no head: turned by half a circle it is the same, and so are these two.
        columns = [np.log(value), np.cos(2 * angle), np.sin(2 * angle)]
        axis = np.stack([np.cos(angle), np.sin(angle)], 1)
        along = axis[:, :, None] * axis[:, None, :]
        root = np.sqrt(recipe.anisotropy)
        tensors = value[:, None, None] * (root * along + (np.eye(2) - along) / root)
        effective = effective_conductivity(tensors[labels])
    present, labels = np.unique(labels, return_inverse=True)  # seeds without a voxel are no grains
    return Polycrystal(
        labels.reshape([recipe.resolution] * recipe.dim), np.stack(columns, 1)[present], effective
    )


def target_of(effective: np.ndarray, recipe: Recipe) -> np.ndarray:
    """``y`` from the effective tensor, in the order of :func:`target_names`."""
    c = effective
    if recipe.target == "tensor":
        return np.concatenate([np.diag(c), c[np.triu_indices(len(c), 1)]])
    if recipe.property == "conductivity":
        return np.array([np.trace(c) / len(c)])
    # The isotropic part of the plane stiffness: it does not change when the axes are turned.
    return np.array(
        [(c[0, 0] + c[1, 1] + 2 * c[0, 1]) / 4, (c[0, 0] + c[1, 1] - 2 * c[0, 1] + 4 * c[2, 2]) / 8]
    )
