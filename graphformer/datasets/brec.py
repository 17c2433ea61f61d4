"""BREC: pairs of graphs that are not isomorphic and hard to tell apart, which measure how
expressive a model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.download import RawFile
from graphformer.errors import strict_flags

_ADDRESS = "https://raw.githubusercontent.com/GraphPKU/BREC/966b5ed5c27bf6372ea081f90ef8c8b2a3342ebc/customize/Data/raw/"
_PARTS = {  # in the official order: file, checksum
    "basic": ("basic.npy", "adef7f761b803026b515d94172399f5db72fe73859b0e489a1edfaa5874aeec2"),
    "regular": ("regular.npy", "e9e85ff2003f50676e2a2ac7ef70b8ad919598c3042aaf8f5f6f43184bfdc663"),
    "strongly_regular": (
        "str.npy",
        "6de58d99b80b7ace4529d17cf8fe3d000b496b3c2a7ab7f59fe3f28f61746d6f",
    ),
    "extension": (
        "extension.npy",
        "9b76b59842f997a502a83724daba033d793c5fbc9c2aa758834beb78d2309d4a",
    ),
    "cfi": ("cfi.npy", "e8d56d7c0a22768da8dfdcaae800bc8dc815fb10b1bf1b52dc7893ed68c4e92f"),
    "four_vertex": ("4vtx.npy", "a9e593c485f3fa08d3db967d7c545a4f5cf7f417f016c9a77a5c1cc646786cea"),
    "distance_regular": (
        "dr.npy",
        "11b861e1439ddee4c58fa04b523e874c25fdbb4ba867f3ac9104711cb3739d89",
    ),
}


class BREC(GraphDataset):
    """BREC (Wang and Zhang): 400 pairs of graphs, graph ``2 i`` and graph ``2 i + 1`` being pair i.
    No pair is isomorphic.

    Pairs stand in the order of the authors' ``dataset_v3.py``; they count the first two regular
    parts as one:

    ===================== ========== ============ ==================================================
    ``basic``             0 to 59    10 nodes     not told apart by 1-WL, that is by message passing
    ``regular``           60 to 109  7-10 nodes   simple regular graphs
    ``strongly_regular``  110 to 159 16-35 nodes  not told apart by 3-WL
    ``extension``         160 to 259 10-19 nodes  between 1-WL and 3-WL
    ``cfi``               260 to 359 18-198 nodes Cai, Fürer and Immerman's, up to 4-WL
    ``four_vertex``       360 to 379 63 nodes     strongly regular with the 4-vertex condition
    ``distance_regular``  380 to 399 30-63 nodes  distance regular
    ===================== ========== ============ ==================================================

    A graph has ``edge_index`` (both directions) and ``num_nodes`` and nothing else: there are no
    features and no labels.

    Args:
        root: folder of the cache and of downloads; None keeps the graphs in memory alone.
        raw: folder that holds the seven raw files. See
            :class:`~graphformer.datasets.store.cache.GraphDataset` for where they are sought.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: a raw file that is damaged.
        DownloadError: the raw files are nowhere and cannot be downloaded.

    Source: arXiv 2304.07702; data MIT.
    """

    version: ClassVar[int] = 1
    raw_files: ClassVar[tuple[RawFile, ...]] = tuple(
        RawFile(name, digest, _ADDRESS + name) for name, digest in _PARTS.values()
    )
    data_folder: ClassVar[str] = "brec"
    categories: ClassVar[dict[str, range]] = {
        "basic": range(60),
        "regular": range(60, 110),
        "strongly_regular": range(110, 160),
        "extension": range(160, 260),
        "cfi": range(260, 360),
        "four_vertex": range(360, 380),
        "distance_regular": range(380, 400),
    }
    """The pairs of each category."""

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

    def build(self) -> Iterator[Data]:
        """Both graphs of each pair, category by category."""
        for category, (name, _) in _PARTS.items():
            texts = np.load(self.raw_path(name), allow_pickle=False).reshape(-1)
            assert len(texts) == 2 * len(self.categories[category])
            for text in self.progress(texts):
                edge_index, nodes = from_graph6(
                    text.decode() if isinstance(text, bytes) else str(text)
                )
                yield Data(edge_index=edge_index, num_nodes=nodes)

    def category(self, pair: int) -> str:
        """The category of a pair."""
        return next(name for name, pairs in self.categories.items() if pair in pairs)

    def pair(self, pair: int) -> tuple[Data, Data]:
        """The two graphs of a pair.

        Raises:
            IndexError: a number outside 0..399, or a data set that is no longer whole.
        """
        if len(self) != 800:
            raise IndexError(
                f"pairs are counted in the whole data set of 800 graphs, this part has {len(self)}"
            )
        if not 0 <= pair < 400:
            raise IndexError(f"there are pairs 0 to 399, not {pair}")
        return self[2 * pair], self[2 * pair + 1]

    def relabelled(self, graph: int, copies: int, seed: int) -> list[Data]:
        """Copies of a graph (0 to 799) whose nodes, and the order of whose edges, are shuffled; a
        seed and a graph make the same copies.
        """
        rng = np.random.RandomState([seed, graph])
        data, out = self[graph], []
        for _ in range(copies):
            number = torch.from_numpy(rng.permutation(data.num_nodes))
            order = torch.from_numpy(rng.permutation(data.num_edges))
            out.append(Data(edge_index=number[data.edge_index[:, order]], num_nodes=data.num_nodes))
        return out


def from_graph6(text: str) -> tuple[Tensor, int]:
    """Edges ``[2, 2 m]`` in both directions, sorted by sender, and the number of nodes, from
    McKay's graph6 format.

    Printable characters hold 6 bits each, plus 63. First n: one character up to 62, else ``~`` and
    three. Then the upper triangle of the adjacency matrix, column by column
    (https://users.cecs.anu.edu.au/~bdm/data/formats.txt).

    Raises:
        ValueError: text that is no graph6, or a graph of more than 258,047 nodes.
    """
    values = (
        np.frombuffer(
            text.removeprefix(">>graph6<<").strip().encode("ascii"), dtype=np.uint8
        ).astype(np.int64)
        - 63
    )
    if not len(values) or values.min() < 0 or values.max() > 63:
        raise ValueError(f"not a graph in graph6 format: {text[:40]!r}")
    header = 1 if values[0] < 63 else 4
    n = int(values[0]) if header == 1 else int(values[1:4] @ np.array([4096, 64, 1]))
    if header == 4 and values[1] == 63:
        raise ValueError("graph6: graphs of more than 258,047 nodes are not read")
    pairs = n * (n - 1) // 2
    bits = np.unpackbits((values[header:, None] << 2).astype(np.uint8), axis=1)[:, :6].reshape(-1)
    if len(values) - header != (pairs + 5) // 6 or bits[pairs:].any():
        raise ValueError(
            f"graph6: {n} nodes need {(pairs + 5) // 6} characters after the first {header}, got "
            f"{len(values) - header}"
        )
    adjacency = np.zeros((n, n), dtype=bool)
    # the lower triangle row by row is the upper one column by column
    columns, rows = np.tril_indices(n, -1)
    adjacency[rows, columns] = bits[:pairs]
    return torch.from_numpy(np.stack(np.nonzero(adjacency | adjacency.T)).astype(np.int64)), n
