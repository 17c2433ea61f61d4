"""Measured or simulated microstructures: label images and voxel volumes from files, as graphs of
grains or of regions.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.microstructures.grains import feature_names, grain_graph, region_graph
from graphformer.datasets.microstructures.image_spacing import uneven_voxels
from graphformer.datasets.microstructures.image_tables import encode, rows_of
from graphformer.datasets.microstructures.images import SUFFIXES, image_files, read_image
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.download import sha256
from graphformer.datasets.store.keyed import read_table, targets_of
from graphformer.datasets.store.tables import some
from graphformer.errors import require_known, strict_flags

_KINDS = ("grains", "phases")
_ON_ERROR = ("raise", "skip")


class Microstructures(GraphDataset):
    """Label images or voxel volumes (PNG, TIFF, npy, npz) as graphs, one a file, see
    :func:`~graphformer.datasets.microstructures.images.read_image`.

    ``kind="grains"``: a node a label (:func:`~graphformer.datasets.grain_graph`).
    ``kind="phases"``: the file is a map of phases, and a node is a connected region of one phase
    (:func:`~graphformer.datasets.region_graph`). ``node_names``, ``edge_names`` and
    ``target_names`` name the columns of ``x``, ``edge_attr`` and ``y``; ``grain`` holds the labels
    and ``pos`` the centres, so that predictions can be painted back. ``file`` is the name of the
    file.

    Args:
        source: a folder (its files with a known suffix, in the order of their names), one file, or
            a list of files. Hidden files are left out; what else is in the folder is told in a
            warning and is in ``unread``.
        root: folder of the cache; None keeps the graphs in memory alone. Files are told by their
            content: an edited one is read again.
        kind: ``"grains"`` or ``"phases"``.
        phases: the values that a map of phases can have, for all files.
        tables: properties of the grains: a folder with ``<stem>.csv`` or ``<stem>.npz`` for each
            file, or a list of tables in the order of the files. The column ``label`` names the
            grain; the others, the same in all tables, become columns of ``x``. Rows of labels that
            are not in the image are told in a warning.
        angles: columns of the tables that are angles, with their period in their own unit (360, or
            180 for an axis without a head); each becomes a cosine and a sine.
        targets: ``y``: a CSV with a column ``file`` (name, stem or path) and a column a target, or
            a mapping from these to a number or to several. Rows that belong to no file are told in
            a warning, before any image is read.
        missing: let targets be NaN or lack for a file (then all are NaN), for models that leave
            them out of the loss. Files without a row are told in a warning.
        periodic, spacing, relative, directions: as in :func:`~graphformer.datasets.grain_graph`.
            Resolutions in the files are not read; where they tell of voxels with unequal edges and
            ``spacing`` is one number, it is in ``notes`` and a warning.
        ignore: labels (of ``kind="phases"``: phases) that are no nodes; one that no image holds is
            named in a warning.
        on_error: ``"raise"`` at a file that cannot be used, or ``"skip"`` it: it is noted in
            ``skipped`` and reported in one warning.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: no files, a file that cannot be read or holds no labels, images of other
            dimensions than the first, a table without a grain, a target that is NaN, or targets
            that do not fit the files, each named.
        MissingExtra: PNG and TIFF need ``graphformer[microstructure]``.
    """

    version: ClassVar[int] = 2

    @strict_flags
    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        root: str | Path | None = None,
        *,
        kind: str = "grains",
        phases: Sequence[int] = (0, 1),
        tables: str | Path | Sequence[str | Path] | None = None,
        angles: Mapping[str, float] | None = None,
        targets: str | Path | Mapping[str, float | Sequence[float]] | None = None,
        missing: bool = False,
        periodic: bool = False,
        spacing: float | Sequence[float] = 1.0,
        relative: bool = False,
        directions: bool = False,
        ignore: Sequence[int] = (),
        on_error: str = "raise",
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        require_known("kind", kind, _KINDS)
        require_known("on_error", on_error, _ON_ERROR)
        if kind == "phases" and tables is not None:
            raise ValueError(
                "tables are for kind='grains': the regions of a map of phases have no labels of "
                "their own."
            )
        if kind == "grains" and tuple(phases) != (0, 1):
            raise ValueError(
                f"phases={tuple(phases)} is for kind='phases'; the labels of kind='grains' are "
                "numbers of grains."
            )
        if missing and targets is None:
            raise ValueError(
                "missing=True lets targets lack, and there are no targets; leave it out."
            )
        if angles and tables is None:
            raise ValueError(
                f"angles names the columns {tuple(angles)} of tables, and there are no tables."
            )
        self.files = _files(source, tables)
        self.tables = _tables(tables, self.files)
        self.columns = (
            encode(read_table(self.tables[0], "label"), angles or {}, str(self.tables[0])).columns
            if self.tables
            else ()
        )
        self.kind, self.phases, self.angles, self.on_error = (
            kind,
            tuple(phases),
            dict(angles or {}),
            on_error,
        )
        self.options: dict[str, Any] = {
            "periodic": periodic,
            "spacing": spacing,
            "relative": relative,
            "directions": directions,
            "ignore": tuple(ignore),
        }
        self.target_names, self._targets = targets_of(targets, self.files, missing)
        self.unread = _unread(source, self.tables, targets)
        settings = {
            **self.options,
            "kind": kind,
            "phases": self.phases,
            "angles": self.angles,
            "on_error": on_error,
            "files": [[path.name, sha256(path)] for path in self.files] if root is not None else [],
            "tables": [sha256(path) for path in self.tables or ()],
            "targets": [self.target_names, self._targets],
        }
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, log=log, force_reload=force_reload, **hooks)
        names = feature_names(self[0].pos.shape[1], directions=directions)
        self.node_names = (
            *names.node,
            *self.columns,
            *([f"phase_{value}" for value in self.phases] if kind == "phases" else ()),
        )
        self.edge_names = names.edge

    def build(self) -> Iterator[Data]:
        """A graph a file."""
        dim = None
        self._absent = set(self.options["ignore"])
        for number in self.progress(range(len(self.files))):
            try:
                data = self._graph(number)
                if dim is not None and data.pos.shape[1] != dim:
                    raise ValueError(
                        f"{self.files[number]} has {data.pos.shape[1]} dimensions and the files "
                        f"before it have {dim}."
                    )
            except (ValueError, TypeError) as error:
                if self.on_error == "raise":
                    raise
                self.skip(str(error))
                continue
            dim = data.pos.shape[1]
            yield data
        if self._absent:
            warnings.warn(
                f"ignore={self.options['ignore']}: no image holds {some(sorted(self._absent))}, so "
                "nothing was left out for it",
                stacklevel=2,
            )

    def _graph(self, number: int) -> Data:
        path = self.files[number]
        image = read_image(path)
        if np.ndim(self.options["spacing"]) == 0 and (edges := uneven_voxels(path)):
            shown = " x ".join(f"{edge / max(edges):.3g}" for edge in edges)
            self.note(
                f"{path.name}: the file says that its voxels have the edges {shown} (the longest "
                f"is 1), and spacing={self.options['spacing']} takes them for equal; give one an "
                "axis"
            )
        ignore = tuple(one for one in self.options["ignore"] if (image == one).any())
        self._absent -= set(ignore)
        options = {**self.options, "ignore": ignore}
        y = (
            None
            if self._targets is None
            else torch.tensor([self._targets[number]], dtype=torch.float32)
        )
        if self.kind == "phases":
            data = region_graph(image, self.phases, name=str(path), y=y, **options)
        else:
            data = grain_graph(
                image, self._properties(number, image), name=str(path), y=y, **options
            )
        if data.num_nodes == 1:
            what = "one grain" if self.kind == "grains" else "one region"
            warnings.warn(f"{path} has {what}: its graph has one node and no edges", stacklevel=2)
        data.file = path.name
        return data

    def _properties(self, number: int, image: np.ndarray) -> np.ndarray | None:
        if not self.tables:
            return None
        path = self.tables[number]
        table = encode(read_table(path, "label"), self.angles, str(path))
        if table.columns != self.columns:
            raise ValueError(
                f"{path} has the columns {table.columns}, and {self.tables[0]} has {self.columns}; "
                "all must have the same."
            )
        ignored = self.options["ignore"]
        return rows_of(table, np.setdiff1d(image, ignored).tolist(), str(path), ignored)


def _files(source: str | Path | Sequence[str | Path], tables: Any) -> list[Path]:
    if not isinstance(source, str | Path):
        paths = [Path(path) for path in source]
    elif Path(source).is_dir():
        paths = image_files(source)[0]
        if isinstance(tables, str | Path) and Path(tables).resolve() == Path(source).resolve():
            stems = {path.stem for path in paths if path.suffix.lower() != ".npz"}
            paths = [
                path for path in paths if path.suffix.lower() != ".npz" or path.stem not in stems
            ]
    else:
        paths = [Path(source)]
    if not paths:
        raise ValueError(
            f"source: there are no images in {str(source)!r}; known suffixes: "
            f"{', '.join(SUFFIXES)}."
        )
    if lacking := [path for path in paths if not path.is_file()]:
        raise ValueError(f"source: there is no file {str(lacking[0])!r}.")
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise ValueError(f"source names {str(twice[0])!r} twice; a graph a file.")
    return paths


def _unread(source: Any, tables: list[Path], targets: Any) -> list[str]:
    """The names of what else is in the folder, told in a warning. The files of tables and targets
    are read.
    """
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return []
    read = {path.resolve() for path in tables}
    read |= {path.parent.resolve() for path in tables} | (
        {Path(targets).resolve()} if isinstance(targets, str | Path) else set()
    )
    found = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in image_files(source)[1]
        if path.resolve() not in read
    ]
    if found:
        known = (
            f"known suffixes are {', '.join(SUFFIXES)}, and folders inside it are not looked into"
        )
        warnings.warn(
            f"{source}: {len(found)} of its files are not read ({some(found)}); {known}",
            stacklevel=3,
        )
    return found


def _tables(tables: str | Path | Sequence[str | Path] | None, files: list[Path]) -> list[Path]:
    if tables is None:
        return []
    if not isinstance(tables, str | Path):
        paths = [Path(path) for path in tables]
        if len(paths) != len(files):
            raise ValueError(f"tables must have one table a file ({len(files)}), got {len(paths)}.")
        return paths
    stems = [file.stem for file in files]
    if twice := [stem for stem, times in Counter(stems).items() if times > 1]:
        raise ValueError(
            f"tables: {twice[0]}.csv would be of several files that are called {twice[0]}; give a "
            "list of tables."
        )
    folder = Path(tables)
    if not folder.is_dir():
        raise ValueError(
            f"tables: {str(folder)!r} is no folder; give a folder of <stem>.csv or <stem>.npz, or "
            "a list of files."
        )
    if both := [
        stem
        for stem in stems
        if (folder / f"{stem}.csv").is_file() and (folder / f"{stem}.npz").is_file()
    ]:
        raise ValueError(
            f"tables: there are both {both[0]}.csv and {both[0]}.npz in {str(folder)!r}; leave one."
        )
    found = [
        next(
            (p for p in (folder / f"{file.stem}.csv", folder / f"{file.stem}.npz") if p.is_file()),
            None,
        )
        for file in files
    ]
    if None in found:
        stem = files[found.index(None)].stem
        raise ValueError(f"tables: there is neither {stem}.csv nor {stem}.npz in {str(folder)!r}.")
    return [path for path in found if path is not None]
