"""A PyG transform that computes encodings and candidate pairs once, before training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from graphformer.nn.encodings import encode_nodes, encoding
from graphformer.nn.pairs import Structure, check_spec, rule_pairs, stored_name


class AddStructure(BaseTransform):
    """Stores what :class:`~graphformer.GraphTransformer` would otherwise make in every forward
    pass.

    >>> AddStructure(encodings=("random_walk:16", "laplacian:8"), candidates="k_hop:2")(data)

    Use it as ``pre_transform`` of a data set or on a list of graphs, before they are batched. The
    model finds what is stored.

    Args:
        encodings: texts of :mod:`graphformer.nn.encodings`; those of pairs are left to the model,
            which knows the pairs.
        candidates: texts of :mod:`graphformer.nn.pairs`, one or several.
    """

    def __init__(self, encodings: Sequence[str] = (), candidates: str | Sequence[str] = ()) -> None:
        self.encodings = [one for one in map(encoding, encodings) if not one.of_pairs]
        specs = [candidates] if isinstance(candidates, str) else list(candidates)
        parts = {part for spec in specs for part in check_spec(spec).split("+")}
        self.candidates = sorted(parts - {"edges", "self"})

    def forward(self, data: Data) -> Data:
        edge_index = (
            data.edge_index if data.edge_index is not None else torch.zeros(2, 0, dtype=torch.int64)
        )
        graph = torch.zeros(data.num_nodes, dtype=torch.int64, device=edge_index.device)
        structure = Structure(edge_index[0], edge_index[1], graph, 1, data.pos)
        for what in self.encodings:
            data[stored_name("encoding", what.spec)] = encode_nodes(structure, what, training=False)
        for part in self.candidates:
            data[stored_name("candidates", part)] = torch.stack(rule_pairs(structure, part))
        return data

    def __repr__(self) -> str:
        return (
            f"AddStructure(encodings={[one.spec for one in self.encodings]}, "
            f"candidates={self.candidates})"
        )
