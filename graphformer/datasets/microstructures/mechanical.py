"""Mechanical MNIST: two-material maps made from handwritten digits, with the strain energy of
stretching them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphformer.datasets.microstructures.grains import feature_names, region_graph
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.download import RawFile
from graphformer.errors import require_known, strict_flags

_KINDS = ("patches", "pixels", "regions")
_SIDE = 28
_CELL = 4
# the block that each of the seven cells along an axis is in
_BLOCK = np.array([0, 0, 1, 1, 1, 2, 2])
_SOFT, _STIFF = 1.0, 100.0  # Young's modulus of grey values 0 and 255
_ADDRESS = "https://raw.githubusercontent.com/elejeune11/Mechanical-MNIST/ef6ed4e399757298c17f925ea13916c153428f8e/data/"
_IMAGES = RawFile(
    "mnist_img_test.txt.zip",
    "6013e9e0f6807c891221bdd4de61494fdaf6bf46307c47b3560d29d0f2c3682f",
    _ADDRESS + "mnist_img_test.txt.zip",
)
_ENERGIES = RawFile(
    "summary_psi_test_all.txt",
    "cb2e2ad5fb7f9a0135238204b1c7bee6ab7d2154d57d8549051468b47c8f55a7",
    _ADDRESS + "summary_psi_test_all.txt",
)

DISPLACEMENTS = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
"""The displacement of the upper edge at each step; the square has side 28."""


class MechanicalMNIST(GraphDataset):
    """Mechanical MNIST, uniaxial extension: 10,000 squares of 28 x 28 pixels, stretched to one and
    a half of their height.

    A pixel of grey value ``v`` is a Neo-Hookean block of Young's modulus ``E = 1 + 99 v / 255`` and
    Poisson's ratio 0.3. The lower edge is fixed and the upper one is moved up by ``DISPLACEMENTS``;
    the sides are free. ``y`` is ``[1, 13]``: the strain energy at each step (step 0 is all zeros:
    leave it out where targets are scaled by their spread), solved by finite elements.

    What a node is:

    - ``"patches"``: 14 x 14 nodes of 2 x 2 pixels, each joined to its 4 neighbours. The smallest
      graph that keeps strokes apart: they are two to four pixels wide.
    - ``"pixels"``: 28 x 28 nodes, each joined to its 4 neighbours.
    - ``"regions"``: connected regions of pixels whose modulus falls in the same of ``levels`` equal
      bins, joined where they touch. Few nodes, and the least exact: the place of a stroke is its
      centre alone.

    ``x`` of patches and pixels: log of the mean modulus; for patches also logs of the harmonic mean
    (together Voigt's and Reuss's bounds of what the four pixels do) and of the moduli along the two
    axes (pixels in a line are springs in series, the two lines are side by side); height (from the
    lower edge at 0 to the upper one at 1), across (from the left side at -1 to the right one at 1),
    and 1 for nodes at the upper and at the lower edge. ``edge_attr``: 1 for vertical neighbours, 1
    for horizontal ones. ``pos`` is (row, column) in pixels, row 0 at the upper edge. ``group_0``
    and ``group_1`` are nested groups for coarse levels: cells of 4 x 4 pixels, and 3 x 3 blocks of
    these (2, 3 and 2 of them along each axis, so that a mirror image has the same). The sides are
    alike, so a mirror image has the same energies; to negate ``across`` makes its graph. Regions
    have the features of :func:`~graphformer.datasets.region_graph` with directions, then log
    modulus and height, and no groups.

    Args:
        root: folder of the cache and of downloads; None keeps the graphs in memory alone.
        kind: ``"patches"``, ``"pixels"`` or ``"regions"``.
        steps: the columns of ``y``; (12,) is the final energy, the customary target.
        levels: bins of the grey values (regions).
        raw: folder that holds the two raw files. See
            :class:`~graphformer.datasets.store.cache.GraphDataset` for where they are sought.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: an unknown kind, a step outside 0..12, or a raw file that is damaged.
        DownloadError: the raw files are nowhere and cannot be downloaded.

    Source: Lejeune, Mechanical MNIST: A benchmark dataset for mechanical metamodels, Extreme
    Mechanics Letters 36 (2020) 100659; data CC BY-SA 3.0. These are the authors' 10,000 test maps;
    :meth:`standard_split` cuts them 8,000 / 1,000 / 1,000.
    """

    version: ClassVar[int] = 2
    raw_files: ClassVar[tuple[RawFile, ...]] = (_IMAGES, _ENERGIES)
    data_folder: ClassVar[str] = "mechanical-mnist"

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        kind: str = "patches",
        *,
        steps: Sequence[int] = tuple(range(len(DISPLACEMENTS))),
        levels: int = 4,
        raw: str | Path | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        require_known("kind", kind, _KINDS)
        if not steps or not all(0 <= step < len(DISPLACEMENTS) for step in steps):
            raise ValueError(
                f"steps must be numbers from 0 to {len(DISPLACEMENTS) - 1}, got {tuple(steps)}."
            )
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be between 2 and 256, got {levels}.")
        self.kind, self.steps, self.levels = kind, tuple(steps), levels
        self.target_names = tuple(f"energy_{step}" for step in self.steps)
        moduli = ("log_modulus", "log_harmonic", "log_vertical", "log_horizontal")
        self.node_names: tuple[str, ...] = (*moduli, "height", "across", "upper_edge", "lower_edge")
        self.edge_names: tuple[str, ...] = ("vertical", "horizontal")
        if kind == "pixels":
            self.node_names = tuple(name for name in self.node_names if name not in moduli[1:])
        if kind == "regions":
            names = feature_names(2, directions=True)
            self.node_names, self.edge_names = (
                (*names.node, *(f"level_{i}" for i in range(levels)), "log_modulus", "height"),
                names.edge,
            )
        settings = {
            "kind": kind,
            "steps": self.steps,
            **({"levels": levels} if kind == "regions" else {}),
        }
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, raw=raw, log=log, force_reload=force_reload, **hooks)

    def standard_split(self) -> tuple[GraphDataset, ...]:
        """8,000 / 1,000 / 1,000 maps for training, validation and test, the same for everyone."""
        return self.split((8000, 1000, 1000), seed=0)

    def build(self) -> Iterator[Data]:
        """A graph a map."""
        images, energies = self.maps()
        targets = torch.from_numpy(energies[:, list(self.steps)]).float()
        if self.kind == "regions":
            for image, y in zip(self.progress(images), targets, strict=True):
                yield self._regions(image, y[None])
            return
        width = 2 if self.kind == "patches" else 1
        side = _SIDE // width
        # The same objects in all graphs are kept once; 10,000 copies of the edges of 28 x 28 pixels
        # would take half a gigabyte.
        edges, kinds = _grid(side)
        rows, columns = np.divmod(np.arange(side * side), side)
        pos = torch.from_numpy((np.stack([rows, columns], 1) + 0.5) * width).float()
        row, column = rows * width // _CELL, columns * width // _CELL
        groups = {
            "group_0": torch.from_numpy(row * (_SIDE // _CELL) + column),
            "group_1": torch.from_numpy(_BLOCK[row] * 3 + _BLOCK[column]),
        }
        across = (columns + 0.5) * 2 / side - 1
        place = np.stack([1 - (rows + 0.5) / side, across, rows == 0, rows == side - 1], 1).astype(
            np.float32
        )
        cells = _modulus(images).reshape(-1, side, width, side, width)
        means = [cells.mean((2, 4))]
        if width > 1:
            # of each column, of each row
            vertical, horizontal = 1 / (1 / cells).mean(2), 1 / (1 / cells).mean(4)
            means += [1 / (1 / cells).mean((2, 4)), vertical.mean(3), horizontal.mean(2)]
        modulus = np.log(np.stack([m.reshape(len(images), -1) for m in means], 2)).astype(
            np.float32
        )
        for material, y in zip(self.progress(modulus), targets, strict=True):
            x = torch.from_numpy(np.concatenate([material, place], 1))
            yield Data(x=x, edge_index=edges, edge_attr=kinds, y=y[None], pos=pos, **groups)

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The maps, uint8 ``[10000, 28, 28]`` (row 0 is the upper edge), and the energies,
        ``[10000, 13]``: what a CNN is trained on.
        """
        with zipfile.ZipFile(self.raw_path(_IMAGES.name)) as archive:
            text = archive.read(archive.namelist()[0])
        images = np.loadtxt(io.BytesIO(text), dtype=np.uint8).reshape(-1, _SIDE, _SIDE)
        return images, np.loadtxt(self.raw_path(_ENERGIES.name))

    def _regions(self, image: np.ndarray, y: Tensor) -> Data:
        level = image.astype(np.int64) * self.levels // 256
        data = region_graph(level, range(self.levels), directions=True, y=y)
        own = data.x[:, -self.levels :].argmax(1)
        # The modulus of the middle of the level: a region is told by its level alone.
        modulus = _modulus((own.numpy() + 0.5) * 256 / self.levels - 0.5)
        more = np.stack([np.log(modulus), 1 - data.pos[:, 0].numpy() / _SIDE], 1)
        data.x = torch.cat([data.x, torch.from_numpy(more).float()], 1)
        return data


def _modulus(grey: np.ndarray) -> np.ndarray:
    return _SOFT + (_STIFF - _SOFT) * grey / 255.0


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Edges in both directions between the 4-neighbours of a square grid, by sender and receiver,
    and their kind.
    """
    nodes = np.arange(side * side).reshape(side, side)
    vertical = np.stack([nodes[:-1].ravel(), nodes[1:].ravel()])
    horizontal = np.stack([nodes[:, :-1].ravel(), nodes[:, 1:].ravel()])
    edges = np.concatenate([vertical, vertical[::-1], horizontal, horizontal[::-1]], 1)
    is_vertical = np.repeat([True, False], [2 * vertical.shape[1], 2 * horizontal.shape[1]])
    order = np.lexsort(edges[::-1])
    kinds = np.stack([is_vertical, ~is_vertical], 1)[order]
    return torch.from_numpy(np.ascontiguousarray(edges[:, order])), torch.from_numpy(kinds).float()
