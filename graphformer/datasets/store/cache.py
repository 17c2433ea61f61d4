"""What all graph data sets share: PyG's in-memory data set over a cache that is never stale and
never half written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset
from tqdm import tqdm

import graphformer
from graphformer._moved import former_name
from graphformer.datasets.store import storage
from graphformer.datasets.store.download import RawFile, find
from graphformer.datasets.store.fingerprint import describe
from graphformer.errors import require, strict_flags


class GraphDataset(InMemoryDataset):
    """Base of the graph data sets. A subclass stores its arguments, calls ``super().__init__`` last
    and writes :meth:`build`.

    It is PyG's ``InMemoryDataset``: ``dataset[i]`` is a ``Data``, slices and index arrays give a
    part, ``transform`` runs at each access, ``pre_transform`` and ``pre_filter`` once, before the
    graphs are kept. Attributes that are the same object in all graphs (the edges of a grid, say)
    are kept once.

    Args:
        root: the folder of the cache (``root/processed``) and of downloaded files (``root/raw``).
            None keeps graphs in memory alone.
        settings: everything that decides what the graphs are; see
            :func:`~graphformer.datasets.store.fingerprint.describe`. Along with ``pre_transform``,
            ``pre_filter``, ``version``, ``raw_files`` and the library's version they make the key
            of the cache.
        raw: a folder that holds ``raw_files``. Otherwise they are sought in ``root/raw``, then in
            the folder ``data_folder`` of the folder that the environment variable GRAPHFORMER_DATA
            names, and then downloaded into ``root/raw``.
        log: show progress bars (on a terminal).
        force_reload: make the graphs again even where the cache has them.

    Raises:
        ValueError: a root that cannot be written to, no graphs at all, or a raw file with a wrong
            checksum.
        TypeError: a setting that cannot be described.
        DownloadError: a raw file that is nowhere and could not be downloaded.
    """

    version: ClassVar[int] = 1
    """A subclass raises this when :meth:`build` makes other graphs from the same settings."""
    raw_files: ClassVar[tuple[RawFile, ...]] = ()
    data_folder: ClassVar[str] = ""
    data_class: ClassVar[type[Data]] = Data

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        settings: dict[str, Any],
        *,
        raw: str | Path | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        self.skipped: list[str] = []
        """What was left out and why, a text each."""
        self.notes: list[str] = []
        """What was read with a doubt, a text each."""
        self._raw = raw
        self._shared: dict[str, Any] = {}
        super().__init__(
            None if root is None else str(root),
            transform,
            pre_transform,
            pre_filter,
            log,
            force_reload,
        )
        key = {
            "data set": f"{former_name(type(self).__module__)}.{type(self).__qualname__}",
            "version": self.version,
            "graphformer": graphformer.__version__,
            "raw files": {file.name: file.sha256 for file in self.raw_files},
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
            **settings,
        }
        self.settings = settings
        self._key = (
            ""
            if root is None
            else json.dumps({name: describe(value) for name, value in key.items()}, sort_keys=True)
        )
        if not (
            self.cache_path
            and self.cache_path.exists()
            and not force_reload
            and self._load_cache(self.cache_path)
        ):
            self._make()

    def build(self) -> Iterable[Data]:
        """The graphs, in order. Called once, where the cache has none. :meth:`progress` shows how
        far it is, :meth:`raw_path` finds raw files and :meth:`skip` notes what is left out.
        """
        raise NotImplementedError

    def progress(self, items: Iterable, total: int | None = None) -> Iterable:
        """A progress bar on a terminal, unless ``log=False``."""
        return tqdm(
            items, total=total, desc=type(self).__name__, disable=None if self.log else True
        )

    def skip(self, what: str) -> None:
        """Note an input that is left out, with its name or row and the reason."""
        self.skipped.append(what)

    def note(self, what: str) -> None:
        """Note an input that is read with a doubt, with its name or row: it is kept, and the user
        is told.
        """
        self.notes.append(what)

    @property
    def cache_path(self) -> Path | None:
        """The file of these settings in the cache; None where ``root`` is None."""
        if not self._key:
            return None
        digest = hashlib.sha256(self._key.encode()).hexdigest()
        return Path(self.processed_dir) / f"{type(self).__name__}-{digest[:16]}.graphs"

    @property
    def raw_file_names(self) -> list[str]:
        return [file.name for file in self.raw_files]

    @property
    def processed_file_names(self) -> list[str]:
        return [self.cache_path.name] if self.cache_path else []

    def raw_path(self, name: str) -> Path:
        """Where the raw file of this name is, with its checksum verified; it is downloaded where it
        is nowhere.
        """
        file = next(file for file in self.raw_files if file.name == name)
        return find(
            file,
            self._raw,
            Path(self.raw_dir) if self._key else None,
            self.data_folder,
            log=self.log,
        )

    def get(self, idx: int) -> Data:
        data = super().get(idx)
        for name, value in self._shared.items():
            data[name] = value
        return data

    def split(
        self, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
    ) -> tuple[GraphDataset, ...]:
        """Random parts without overlap: ``fractions`` of the graphs, or numbers of graphs where all
        are ints.

        The permutation is numpy's RandomState, which is frozen: the same seed gives the same parts
        everywhere, for ever.

        Raises:
            ValueError: negative parts, or parts that are more than there is.
        """
        counts = all(isinstance(part, int | np.integer) for part in fractions)
        total = sum(fractions)
        if min(fractions, default=-1) < 0 or total > (len(self) if counts else 1 + 1e-9):
            raise ValueError(
                f"fractions must be parts of 1, or numbers of graphs up to {len(self)} in all, got "
                f"{tuple(fractions)}."
            )
        ends = np.cumsum([0, *fractions]) * (1 if counts else len(self))
        order, cuts = np.random.RandomState(seed).permutation(len(self)), np.rint(ends).astype(int)
        return tuple(self.index_select(order[a:b].tolist()) for a, b in itertools.pairwise(cuts))

    def folds(
        self, k: int, seed: int = 0, groups: Sequence | None = None
    ) -> list[tuple[GraphDataset, GraphDataset]]:
        """``k`` pairs (training, test): each graph is in one test part.

        Args:
            k: number of folds.
            seed: of the permutation, as in :meth:`split`.
            groups: a value a graph; graphs of one value stay together (leave-one-monomer-out, say).
                A group for each fold or more.

        Raises:
            ValueError: fewer than two folds, more folds than graphs or groups, or groups of another
                length.
        """
        if groups is not None and len(groups) != len(self):
            raise ValueError(
                f"groups must have one value a graph ({len(self)}), got {len(groups)}."
            )
        members = (
            np.arange(len(self))
            if groups is None
            else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
        )
        number = int(members.max()) + 1
        if not 2 <= k <= number:
            raise ValueError(
                f"k must be between 2 and {number}, the number of "
                f"{'graphs' if groups is None else 'groups'}, got {k}."
            )
        parts = np.array_split(np.random.RandomState(seed).permutation(number), k)
        inside = [np.isin(members, part) for part in parts]
        return [
            (
                self.index_select(np.nonzero(~test)[0].tolist()),
                self.index_select(np.nonzero(test)[0].tolist()),
            )
            for test in inside
        ]

    @strict_flags
    def to_dgl(self, labels: bool = False) -> list:
        """The graphs as DGLGraphs, node attributes in ``ndata`` and edge attributes in ``edata``
        under their names.

        A DGLGraph holds nothing of the whole graph: ``labels=True`` gives pairs (graph, y), as
        DGL's own data sets do.

        Raises:
            MissingExtra: dgl is not installed.
        """
        dgl = require("dgl", extra="dgl", why="to_dgl")
        graphs = list(self)
        # The level of an attribute is judged over all graphs: in one graph alone, y of one row
        # looks like a feature of one node.
        lengths = {
            name: [
                g[name].shape[0] if isinstance(g[name], Tensor) and g[name].ndim else -1
                for g in graphs
            ]
            for name in graphs[0].to_dict()
        }
        nodes, edges = [g.num_nodes for g in graphs], [g.num_edges for g in graphs]
        of_edges = [
            name
            for name, length in lengths.items()
            if "edge" in name and name != "edge_index" and length == edges
        ]
        of_nodes = [
            name
            for name, length in lengths.items()
            if name not in ("y", "edge_index", *of_edges) and length == nodes
        ]
        result = []
        for g in graphs:
            senders, receivers = g.edge_index
            made = dgl.graph((senders, receivers), num_nodes=g.num_nodes)
            made.ndata.update({name: g[name] for name in of_nodes})
            made.edata.update({name: g[name] for name in of_edges})
            result.append((made, g.y) if labels else made)
        return result

    def _make(self) -> None:
        path = self.cache_path
        if path:
            storage.require_writable(path.parent)
        self.skipped, self.notes = [], []
        graphs = [g for g in self.build() if self.pre_filter is None or self.pre_filter(g)]
        if self.pre_transform is not None:
            graphs = [self.pre_transform(g) for g in graphs]
        self._tell(len(graphs))
        if not graphs:
            raise ValueError(
                f"{type(self).__name__} has no graph: every one was left out or filtered; see "
                "pre_filter and the warnings."
            )
        if len(graphs) > 1:
            same = [
                name
                for name in graphs[0].to_dict()
                if all(name in g and g[name] is graphs[0][name] for g in graphs)
            ]
            # One attribute stays with each graph: the number of graphs is read off it.
            self._shared = {name: graphs[0][name] for name in same[: len(graphs[0].to_dict()) - 1]}
        self._set(
            *self.collate(
                [
                    type(g).from_dict(
                        {k: v for k, v in g.to_dict().items() if k not in self._shared}
                    )
                    for g in graphs
                ]
            )
        )
        if path:
            slices = None if self.slices is None else dict(self.slices)
            kept_now = {
                "data": self._data.to_dict(),
                "slices": slices,
                "shared": self._shared,
                "skipped": self.skipped,
            }
            try:
                storage.write(path, self._key, {**kept_now, "notes": self.notes})
            except OSError as error:  # a full disk, after hours of work
                reason = error.strerror or error
                warnings.warn(
                    f"the cache file {path} cannot be written ({reason}); the graphs are in memory "
                    "alone",
                    stacklevel=4,
                )

    def _tell(self, kept: int) -> None:
        """Warn of what was left out and of doubts; of a cache's too, whose graphs are no better the
        second time.
        """
        name = type(self).__name__
        if self.skipped:
            shown = "; ".join(self.skipped[:3]) + ("; ..." if len(self.skipped) > 3 else "")
            warnings.warn(
                f"{name}: {len(self.skipped)} left out, {kept} kept ({shown})", stacklevel=5
            )
        if self.notes:
            shown = "; ".join(self.notes[:3]) + ("; ..." if len(self.notes) > 3 else "")
            warnings.warn(f"{name}: {len(self.notes)} in doubt, see notes ({shown})", stacklevel=5)

    def _set(self, data: Data, slices: dict | None) -> None:
        self._data, self.slices, self._data_list = data, slices, None

    def _load_cache(self, path: Path) -> bool:
        try:
            kept = storage.read(path, self._key)
            # graphs of other shapes than the cache says fail here, and not in the middle of a run
            try:
                self._shared = kept["shared"]
                self._set(self.data_class.from_dict(kept["data"]), kept["slices"])
                for place in {0, super().len() - 1}:
                    self.get(place)
            except Exception as error:
                self._shared = {}
                raise storage.Unusable(
                    f"holds no graphs ({type(error).__name__}: {error})"
                ) from None
        except storage.Unusable as problem:
            warnings.warn(f"the cache file {path} {problem}; it is made again", stacklevel=4)
            return False
        self.skipped, self.notes = kept["skipped"], list(kept.get("notes", []))
        self._data_list = None
        self._tell(super().len())
        return True
