"""Data sets of polycrystals that are made here from a seed, with the effective property solved on
voxels.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.microstructures.grains import feature_names, grain_graph
from graphformer.datasets.microstructures.voronoi import (
    Polycrystal,
    Recipe,
    make_polycrystal,
    property_names,
    target_names,
    target_of,
)
from graphformer.datasets.store.cache import GraphDataset
from graphformer.errors import require_known, strict_flags, whole

_PROPERTIES = ("conductivity", "stiffness")
_LAWS = ("lognormal", "two-phase")
_TARGETS = ("mean", "tensor")
_OF_LAW = {
    "sigma": ("lognormal", 1.0),
    "contrast": ("two-phase", 10.0),
    "fraction": ("two-phase", 0.5),
}
"""The law that reads a setting, and what the setting is unless given."""


class PolycrystalDataset(GraphDataset):
    """Periodic Voronoi polycrystals and their effective conductivity or stiffness, made from a
    seed: no download, no licence.

    A graph has a node a grain and edges in both directions between grains that touch
    (:func:`~graphformer.datasets.grain_graph`, with lengths in units of the mean grain: the
    effective property has no length of its own). The cell has side 1.

    - ``x``: size and shape, then the material: ``log_conductivity`` (and ``cos_2theta``,
      ``sin_2theta`` of the axis of easy conduction), or ``log_young`` and ``poisson``.
      ``node_names`` names the columns, ``edge_names`` those of ``edge_attr``.
    - ``y``: ``[1, T]``, named by ``target_names``. ``target="mean"``: the mean of the diagonal of
      the conductivity tensor, or bulk and shear modulus of the isotropic part of the stiffness.
      ``target="tensor"``: the diagonal, then what is above it.

    Graph ``i`` depends on the settings and on ``i`` alone: a longer data set begins with the graphs
    of a shorter one.

    Args:
        root: folder of the cache, or None to keep the graphs in memory alone.
        num_graphs: how many.
        num_grains: grains a graph, one number or (least, most), drawn uniformly. Grains without a
            voxel are left out.
        dim: 2 or 3.
        resolution: voxels along each axis.
        seed: a number from 0.
        property: ``"conductivity"`` or ``"stiffness"`` (2-D, plane strain, Poisson's ratio uniform
            in [0.2, 0.4)).
        law: ``"lognormal"``: ``exp(sigma z)``, ``z`` a standard normal; ``"two-phase"``:
            ``contrast`` with probability ``fraction``, else 1. It gives the conductivity or Young's
            modulus; their unit is free.
        sigma: the standard deviation of the logarithm (lognormal).
        contrast: the value of the second phase (two-phase).
        fraction: its probability (two-phase).
        anisotropy: in 2-D conduction, conductivity along a grain's axis over that across it; the
            drawn value is their geometric mean and the axis is uniform. 1 is isotropic.
        target: ``"mean"`` or ``"tensor"``.
        directions: add features that tell directions (see ``grain_graph``). By default where the
            answer needs them: for tensors and anisotropic grains.
        workers: processes that solve. They are spawned: a script needs
            ``if __name__ == "__main__"``. The graphs are the same.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: a setting out of its range, named with the range.

    The solution has an error of its own. Against 256 voxels an axis, 64 voxels and 20 to 40 grains
    give conductivities that are 0.7 % (lognormal), 1.2 % (two phases, contrast 10) or 2.6 %
    (contrast 100) too low; voxels along a grain count, so more grains ask for a finer grid. The
    scatter left after this shift is 0.03 %, 0.03 % and 0.1 % of the variance.

    Source: finite volumes and bilinear elements, see
    :mod:`graphformer.datasets.microstructures.homogenize`.
    """

    version: ClassVar[int] = 2

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        num_graphs: int = 1000,
        num_grains: int | tuple[int, int] = (20, 40),
        dim: int = 2,
        resolution: int = 64,
        seed: int = 0,
        property: str = "conductivity",
        *,
        law: str = "lognormal",
        sigma: float = _OF_LAW["sigma"][1],
        contrast: float = _OF_LAW["contrast"][1],
        fraction: float = _OF_LAW["fraction"][1],
        anisotropy: float = 1.0,
        target: str = "mean",
        directions: bool | None = None,
        workers: int = 0,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        least, most = (
            (num_grains, num_grains) if isinstance(num_grains, int | np.integer) else num_grains
        )
        directions = (target == "tensor" or anisotropy != 1) if directions is None else directions
        self.recipe = Recipe(
            (least, most),
            dim,
            resolution,
            seed,
            property,
            law,
            sigma,
            contrast,
            fraction,
            anisotropy,
            target,
            directions,
        )
        _check(self.recipe, num_graphs)
        whole("workers", workers, 0)
        self.num_graphs, self.workers = num_graphs, workers
        names = feature_names(dim, directions=directions)
        self.node_names, self.edge_names = (*names.node, *property_names(self.recipe)), names.edge
        self.target_names = target_names(self.recipe)
        settings = {**self.recipe._asdict(), "num_graphs": num_graphs}
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)

    def build(self) -> Iterator[Data]:
        """The graphs, solved one by one or by ``workers`` processes."""
        make = partial(_arrays, self.recipe)
        if self.workers < 1:
            yield from map(
                self._graph, self.progress(map(make, range(self.num_graphs)), self.num_graphs)
            )
            return
        # Spawned, because a forked copy of a process that runs torch's threads may hang.
        with ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn")) as pool:
            chunk = max(1, min(16, self.num_graphs // (4 * self.workers)))
            made = pool.map(make, range(self.num_graphs), chunksize=chunk)
            yield from map(self._graph, self.progress(made, self.num_graphs))

    def image(self, index: int) -> Polycrystal:
        """The voxels that graph ``index`` was made from (before any split or filter), for pictures;
        made again from the seed.
        """
        if not 0 <= index < self.num_graphs:
            raise IndexError(f"index {index} is out of range for {self.num_graphs} polycrystals")
        return make_polycrystal(self.recipe, index)

    def _graph(self, made: Sequence[np.ndarray]) -> Data:
        labels, properties, target = made
        y = torch.from_numpy(target).float()[None]
        step = 1 / self.recipe.resolution
        return grain_graph(
            labels,
            properties,
            periodic=True,
            spacing=step,
            relative=True,
            directions=self.recipe.directions,
            y=y,
        )


def _check(recipe: Recipe, num_graphs: int) -> None:
    require_known("property", recipe.property, _PROPERTIES)
    require_known("law", recipe.law, _LAWS)
    require_known("target", recipe.target, _TARGETS)
    if recipe.dim not in (2, 3):
        raise ValueError(f"dim must be 2 or 3, got {recipe.dim}.")
    voxels = recipe.resolution**recipe.dim if recipe.resolution > 0 else 0
    least, most = recipe.num_grains
    for name, value, low, high in [
        ("num_graphs", num_graphs, 1, None),
        ("seed", recipe.seed, 0, None),
        ("resolution", recipe.resolution, 1, None),
        ("num_grains", least, 1, most),
        ("num_grains", most, least, voxels),
    ]:
        if value < low or (high is not None and value > high):
            raise ValueError(
                f"{name} must be {low} or more{'' if high is None else f' and at most {high}'}, "
                f"got {value}."
            )
    for name, number in [
        ("contrast", recipe.contrast),
        ("anisotropy", recipe.anisotropy),
        ("sigma", recipe.sigma),
    ]:
        if not np.isfinite(number) or number < 0 or (number == 0 and name != "sigma"):
            raise ValueError(
                f"{name} must be {'0 or more' if name == 'sigma' else 'positive'}, got {number}."
            )
    if not 0 <= recipe.fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {recipe.fraction}.")
    for name, (law, usual) in _OF_LAW.items():
        if recipe.law != law and getattr(recipe, name) != usual:
            raise ValueError(
                f"{name}={getattr(recipe, name)} is for law={law!r}, and law={recipe.law!r} does "
                "not read it; leave it out."
            )
    if recipe.dim == 3 and (recipe.property == "stiffness" or recipe.anisotropy != 1):
        what = (
            "property='stiffness'"
            if recipe.property == "stiffness"
            else f"anisotropy={recipe.anisotropy}"
        )
        raise ValueError(
            f"{what} is solved in 2-D only; use dim=2, or isotropic conductivity in 3-D."
        )
    if recipe.property == "stiffness" and recipe.anisotropy != 1:
        raise ValueError(
            f"anisotropy={recipe.anisotropy} is for conductivity; the grains of "
            "property='stiffness' are isotropic."
        )


def _arrays(recipe: Recipe, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What another process sends back: a few small arrays; the graph is cheap and is made at
    home.
    """
    made = make_polycrystal(recipe, index)
    return made.labels.astype(np.int32), made.properties, target_of(made.effective, recipe)
