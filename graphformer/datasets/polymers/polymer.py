"""Data sets of polymers: band gaps and ionization energies of homopolymers, electron affinities of
copolymers, and files of one's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch_geometric.data import Data

from graphformer.datasets.polymers.features import EDGE_NAMES, NODE_NAMES, edge_names, node_names
from graphformer.datasets.polymers.smiles import graph_and_left_out
from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.download import RawFile, sha256
from graphformer.datasets.store.tables import Row, numbers, read_rows, some
from graphformer.errors import require, require_known, strict_flags

_DFT = "https://media.githubusercontent.com/media/ChangwenXu98/TransPolymer/8399d4816ce772b64deba34f4455d91d9a764b2a/data/"
_VIPEA = "https://raw.githubusercontent.com/coleygroup/polymer-chemprop-data/2af92df9560c9f1caf6ddc8a71e2290768a71674/results/vipea/cv10-random/polymer/"
_PROPERTIES = {
    "Egc": "d779e1777e7f25bf367dae2a2bf72659dba26345eb45dbc2cde73cdd461a9a14",
    "Egb": "14667622e0b600f434dcf65e39004bc0bd7b932e7340b8800f451644016e801e",
    "Ei": "961bc75fd773457979df97562ec7a3f54188b09819e6d51aaf59d0ee8221d572",
    "Eea": "3686258d43bed2aae744ccfaf9c7f8cc43867e2ae4d3816f3dacd43bc55c06b2",
}
_FOLDS = (
    "e14b94575256dd0ab97cb9007336ddc1a23a6c0b9f56ec302af8e28c8068065d",
    "197bb879652e224ad33129b50ee7ea0eec9219dafd89846c9894e9a5302cafa0",
    "f67d15554a76c3f0e70fd07eabf03b3a7bfdd7a6b84c040e5286298d9831aee8",
    "ee772c297b9f61b4c63087d76459da6cd47841e6d60908b8eb57c047a9f197be",
    "d19b90ad1101437c2cc6cafcf54a040d1654edf9428deff2a7661e9898b8b1b8",
    "93fecc582d58cc442456f51ecf5071df34d404d9a4b87b87ffc004f6735dd08c",
    "a27cd72866b0118f3abf5e7da39ecc9534e06cc87391e2e5ca01e1f28e66deb2",
    "da0f3e47f21cf272175dc6e6f0983eb885e1032bb6b0a1c3d122dfec2a517754",
    "c91a8df2e5e72a9818af3c2b74c49793eb84c99d60f1e9e51a6bd78096382aa5",
    "75583cd1162178ef684b140d78ed2d1fd94e9e2f910d9db83c5ac1460995c428",
)
_A = (
    "[*:1]c1cc(F)c([*:2])cc1F",
    "[*:1]c1cc2ccc3cc([*:2])cc4ccc(c1)c2c34",
    "[*:1]c1ccc(-c2ccc([*:2])s2)s1",
    "[*:1]c1ccc([*:2])cc1",
    "[*:1]c1ccc2c(c1)[nH]c1cc([*:2])ccc12",
    "[*:1]c1ccc([*:2])c2nsnc12",
    "[*:1]c1ccc2c(c1)C(C)(C)c1cc([*:2])ccc1-2",
    "[*:1]c1cc2cc3sc([*:2])cc3cc2s1",
    "[*:1]c1ccc2c(c1)S(=O)(=O)c1cc([*:2])ccc1-2",
)
# in the order of the published leave-one-monomer-out folds
_MONOMERS = {smiles: number for number, smiles in enumerate(_A)}
_EA_IP = ("EA vs SHE (eV)", "IP vs SHE (eV)")


class PolymerGraphs(GraphDataset):
    """Polymers as graphs of atoms, see :func:`polymer_graph`, with a property each: published ones,
    or those of a CSV file.

    ``property`` names a set of homopolymers, all from density functional theory, in eV: ``"Egc"``:
    band gap of a chain (3,380), ``"Egb"``: band gap in bulk (561), ``"Ei"``: ionization energy
    (370), ``"Eea"``: electron affinity (368). For folds: ``folds(5, seed)``.

    A graph has ``x`` (``node_names`` names the columns), ``edge_index``, ``edge_attr``
    (``edge_names``; the column ``periodic`` marks the bond that joins the two ends), ``y``
    ``[1, T]``, ``group_0`` (the monomer of each atom), ``node_weight``, ``text`` and ``row``,
    from 1.

    Args:
        root: folder of the cache and of downloads; None keeps the graphs in memory alone.
        property: which published set, ``"Egc"`` unless given; none beside ``file``.
        file: a CSV file of one's own, with a header, see
            :func:`~graphformer.datasets.store.tables.read_rows`. Its texts are pSMILES or
            copolymers, also mixed. What cannot be read is left out, named with its row in
            ``skipped``, and counted in a warning.
        text: the column of ``file`` that holds the texts, ``"smiles"`` unless given.
        targets: the columns of ``file`` that become ``y``, ``("value",)`` unless given. A missing
            label is NaN: an empty field, one of those that stand for it ("N/A", "-", ...), and one
            that holds no finite number, which is told in a warning with its row; the other labels
            of the row are kept. () where there are none.
        features: ``"full"``, or ``"basic"`` for models that were trained before there were columns
            of stereo, see :func:`polymer_graph`.
        raw: folder of the published file; none beside ``file``. See
            :class:`~graphformer.datasets.store.cache.GraphDataset` for where it is sought.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: an unknown property, an argument that is not read (``property`` or ``raw``
            beside ``file``, ``text`` or ``targets`` without it), a column that is not in the file,
            no row that can be read, or a damaged raw file.
        DownloadError: the raw file is nowhere and cannot be downloaded.
        MissingExtra: rdkit is not installed.

    Source: Kuenneth et al., Patterns 2 (2021) 100238; files as in Xu et al., TransPolymer, npj
    Comput. Mater. 9 (2023) 64 (MIT).
    """

    version: ClassVar[int] = 2
    raw_files: ClassVar[tuple[RawFile, ...]] = tuple(
        RawFile(f"{name}.csv", sha, f"{_DFT}{name}.csv") for name, sha in _PROPERTIES.items()
    )
    data_folder: ClassVar[str] = "polymer-dft"
    node_names: tuple[str, ...] = NODE_NAMES
    edge_names: tuple[str, ...] = EDGE_NAMES

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        property: str | None = None,
        *,
        file: str | Path | None = None,
        text: str | None = None,
        targets: Sequence[str] | None = None,
        features: str = "full",
        raw: str | Path | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        idle: dict[str, Any] = (
            {"property": property, "raw": raw}
            if file is not None
            else {"text": text, "targets": targets}
        )
        for name, value in idle.items():
            if value is not None:
                why = (
                    "beside file: it is of the published sets"
                    if file is not None
                    else "without file: it is a column of one's own"
                )
                raise ValueError(f"{name}={str(value)!r} is not read {why}; leave it out.")
        property, text = "Egc" if property is None else property, "smiles" if text is None else text
        targets = ("value",) if targets is None else targets
        if file is None:
            require_known("property", property, _PROPERTIES)
        elif not Path(file).is_file():
            raise ValueError(f"file: {str(file)!r} is no file.")
        self.property, self.file, self.text_column, self.features = (
            property,
            file,
            text.strip(),
            features,
        )
        self.columns = tuple(
            name.strip() for name in ([targets] if isinstance(targets, str) else targets)
        )
        self.target_names = self.columns if file is not None else (property,)
        self.node_names, self.edge_names = node_names(features), edge_names(features)
        settings: dict[str, Any] = {"property": property, "features": features}
        if file is not None:
            settings = {
                "file": sha256(file),
                "text": self.text_column,
                "targets": self.columns,
                "features": features,
            }
            _check_labels(Path(file), self.text_column, self.columns)
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, settings, raw=raw, log=log, force_reload=force_reload, **hooks)

    def build(self) -> Iterator[Data]:
        """A graph a row."""
        path = Path(self.file) if self.file is not None else self.raw_path(f"{self.property}.csv")
        yield from _read(self, path, self.text_column, self.columns, self.features)


class CopolymerGraphs(GraphDataset):
    """vipea: 42,966 copolymers with electron affinity and ionization potential, and their published
    folds.

    Nine monomers A times 682 monomers B, in three compositions (1:1, 3:1, 1:3), as alternating,
    random and block copolymers. A graph has the atoms of both monomers, see :func:`polymer_graph`:
    the bonds between monomers are edges whose ``weight`` (a column of ``edge_attr``) tells the
    architecture, ``node_weight`` (and the column ``fraction`` of ``x``) is the composition, and
    ``group_0`` the monomer of each atom. ``y`` is ``[1, 2]``: EA and IP against the standard
    hydrogen electrode, in eV. ``fold`` is the published test fold, ``monomer`` the number of A in
    the order of the leave-one-monomer-out folds.

    In block copolymers the published weights of what end 4 receives sum to 0.75 and not to 1 (4-4
    has 0.125); they are kept so.

    Args:
        root: folder of the cache and of downloads; None keeps the graphs in memory alone.
        raw: folder that holds the ten raw files. See
            :class:`~graphformer.datasets.store.cache.GraphDataset` for where they are sought.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: a raw file that is damaged. DownloadError: one that is nowhere. MissingExtra:
            rdkit is not installed.

    Source: Aldeghi and Coley, Chem. Sci. 13 (2022) 10486; data MIT.
    """

    version: ClassVar[int] = 2
    raw_files: ClassVar[tuple[RawFile, ...]] = tuple(
        RawFile(f"input_test_{i}.csv", sha, f"{_VIPEA}input_test_{i}.csv")
        for i, sha in enumerate(_FOLDS)
    )
    data_folder: ClassVar[str] = "polymer-vipea/cv10-random-polymer"
    node_names: tuple[str, ...] = NODE_NAMES
    edge_names: tuple[str, ...] = EDGE_NAMES
    target_names: tuple[str, ...] = ("EA", "IP")
    text_column: ClassVar[str] = "poly_chemprop_input"

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        *,
        raw: str | Path | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(root, {}, raw=raw, log=log, force_reload=force_reload, **hooks)

    def random_fold(self, k: int) -> tuple[GraphDataset, GraphDataset, GraphDataset]:
        """Training, validation and test of the published random fold ``k`` of ten: validation is
        the test part of fold ``k - 1`` (9 for 0).

        Raises:
            ValueError: a fold outside 0..9.
        """
        return self._parts("fold", k, len(_FOLDS))

    def monomer_fold(self, k: int) -> tuple[GraphDataset, GraphDataset, GraphDataset]:
        """Training, validation and test where a monomer A is in one part alone: the published
        leave-one-monomer-out fold ``k`` of nine.

        Raises:
            ValueError: a fold outside 0..8.
        """
        return self._parts("monomer", k, len(_MONOMERS))

    def build(self) -> Iterator[Data]:
        """A graph a copolymer: those of test fold 0 first."""
        for fold, file in enumerate(self.raw_files):
            for data in _read(self, self.raw_path(file.name), self.text_column, _EA_IP):
                data.fold, data.monomer = fold, _MONOMERS.get(data.text.split(".")[0], -1)
                yield data

    def _parts(
        self, name: str, k: int, number: int
    ) -> tuple[GraphDataset, GraphDataset, GraphDataset]:
        if not 0 <= k < number:
            raise ValueError(f"k must be from 0 to {number - 1}, got {k}.")
        fold = torch.as_tensor(self._data[name]).reshape(-1)[torch.as_tensor(list(self.indices()))]
        test, valid = fold == k, fold == (k - 1) % number
        train, valid, test = (self.index_select(part) for part in (~(test | valid), valid, test))
        return train, valid, test


def _read(
    dataset: GraphDataset, path: Path, text: str, targets: Sequence[str], features: str = "full"
) -> Iterator[Data]:
    """A graph for each row that can be read; the others are noted."""
    require("rdkit", extra="polymer", why=type(dataset).__name__)
    rows = read_rows(path, (text, *targets)).rows
    left_out: list[str] = []
    for row in dataset.progress(rows, len(rows)):
        try:
            if row.problem:
                raise ValueError(row.problem)
            data, more = graph_and_left_out(row.cells[text] or "", features)
        except ValueError as error:
            dataset.skip(f"{row.place}: {error}")
            continue
        if more:
            left_out.append(f"{row.place}: {' and '.join(more)}")
        data.row = row.number
        if targets:
            data.y = torch.tensor([numbers(row, targets)[0]], dtype=torch.float32)
        yield data
    if left_out:
        told = (
            f"{path}: the basic features, which the model was trained on, do not tell all of "
            f"{len(left_out)} rows"
        )
        warnings.warn(f"{told} ({some(left_out)})", stacklevel=2)


def _check_labels(path: Path, text: str, targets: tuple[str, ...]) -> None:
    """Tell what no number can be made of, before any graph is."""
    if text in targets or len(set(targets)) < len(targets):
        twice = (
            text if text in targets else next(name for name in targets if targets.count(name) > 1)
        )
        raise ValueError(
            f"targets: the column {twice!r} is named twice in text and targets; a column is read "
            "once."
        )
    problems = [
        one
        for row in read_rows(path, (text, *targets)).rows
        if not row.problem
        for one in _problems(row, targets)
    ]
    if problems:
        warnings.warn(
            f"{path}: {len(problems)} labels are taken as missing ({some(problems, 3)})",
            stacklevel=4,
        )


def _problems(row: Row, targets: tuple[str, ...]) -> list[str]:
    short = [
        f"{row.place}, column {name!r}: the row ends before it"
        for name in targets
        if row.cells[name] is None
    ]
    return short + numbers(row, targets)[1]
