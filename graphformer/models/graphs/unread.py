"""Attributes of a PyG ``Data`` that mean something to other layers and that a network does not
read: each is told once.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.models.graphs.label_masks import num_seeds
from graphformer.nn.pairs import stored_name

SAMPLED = "encodings of a sampled part"
"""In what was told: no name of an attribute."""

HINTS = {
    "x": "node_dim=0 leaves the features of nodes out; node_dim={width} reads them",
    "edge_attr": "edge_dim={width} reads it",
    "u": "global_dim={width} reads it",
    "pos": "candidates such as 'edges+knn:8' and encodings such as 'distance:10' read it",
    "is_query": "candidates='retrieve' reads it",
    "edge_weight": "make it a column of data.edge_attr, and give edge_dim",
    "node_weight": "make it a column of data.x",
    "edge_type": "make it a column of data.edge_attr (a category), and give edge_dim; or give "
    "relations=gf.EdgeTypes(num_types)",
    "node_type": "make it a column of data.x (a category)",
    "z": "make it data.x, with node_dim the number of elements",
    "face": "torch_geometric.transforms.FaceToEdge makes data.edge_index of it",
    "adj_t": "data.edge_index is read",
    "adj": "data.edge_index is read",
    "y": "targets go by their names: it is the label of a single target",
    "edge_label": "it is the label of a single target of edges",
    "edge_label_index": "targets of edges are predicted for it",
    "node_norm": "GraphSAINTSampler's weights of the loss have no place here; sample with "
    "NeighborLoader",
    "edge_norm": "GraphSAINTSampler's weights of messages have no place here; sample with "
    "NeighborLoader",
    "root_n_id": "batches of ShaDowKHopSampler have labels for their roots alone; sample with "
    "NeighborLoader",
    "node_attr": "data.x is read",
    "edge_features": "data.edge_attr is read",
    "sample_weight": "all labels that count weigh the same",
    "time": "make it a column of data.x",
    "edge_time": "make it a column of data.edge_attr, and give edge_dim",
}
"""Names with a meaning in PyG, and what to do. Whatever else the data hold (names, identifiers,
results) is theirs.
"""


def refuse_other_edges(data: Any) -> None:
    """ValueError where the edges are given in a form that is not read: the graph would seem to have
    none.
    """
    if data.get("edge_index") is not None:
        return
    for name in ("adj_t", "adj"):
        if data.get(name) is not None:
            raise ValueError(
                f"data.{name} is given and no data.edge_index, which is what is read; make it: "
                "data = torch_geometric.data.Data(edge_index=torch.stack((columns, rows)), ...) "
                "from the rows and columns of adj_t"
            )


def tell_unread(data: Any, read: Container[str], told: set[str], owner: str) -> None:
    """Warn of each attribute that is not in ``read``, once: ``told`` remembers."""
    for name, value in data.to_dict().items():
        if name in read or name in told or (hint := _hint(name, value)) is None:
            continue
        told.add(name)
        if not _repeated(data, name, read):
            warnings.warn(
                f"data.{name} is not read by this {owner}: {hint}; or leave it out of the data",
                stacklevel=3,
            )


def tell_sampled(
    data: Any, encodings: Sequence[str], stored: Container[str], told: set[str]
) -> None:
    """Warn, once, where encodings of nodes are made of what a neighbour loader sampled: they are
    others than those of the whole graph.
    """
    made = [one for one in encodings if stored_name("encoding", one) not in stored]
    if not made or SAMPLED in told or num_seeds(data) is None:
        return
    told.add(SAMPLED)
    warnings.warn(
        f"encodings={made} are made of the part of the graph that NeighborLoader sampled, and "
        "differ from those of the whole graph: store them before sampling, data = "
        f"gf.nn.AddStructure(encodings={made})(data), or give encodings=()",
        stacklevel=3,
    )


def forget_known(data: Any, told: set[str]) -> None:
    """Nothing need be told of conventional names in data whose fields are documented: those of this
    library's own data sets.
    """
    told.update(name for name in HINTS if data.get(name) is not None)


def _hint(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name.startswith(("encoding_", "candidates_")):
        return "it was stored for another setting of encodings or candidates"
    if name.endswith("mask") and name not in ("train_mask", "val_mask", "test_mask"):
        return f"mask={name!r} makes it choose the labels that count" if _is_bool(value) else None
    hint = HINTS.get(name)
    width = value.shape[1] if isinstance(value, Tensor) and value.ndim == 2 else 1
    return None if hint is None else hint.format(width=width)


def _is_bool(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _repeated(data: Any, name: str, read: Container[str]) -> bool:
    """Whether it is a column of the features, which are read: there, it is not lost."""
    value, table = (
        data[name],
        {
            "node_weight": "x",
            "node_type": "x",
            "z": "x",
            "edge_weight": "edge_attr",
            "edge_type": "edge_attr",
        },
    )
    features = data.get(table[name]) if name in table and table[name] in read else None
    if (
        not isinstance(value, Tensor)
        or not isinstance(features, Tensor)
        or features.ndim != 2
        or value.numel() != len(features)
    ):
        return False
    return bool((features == value.reshape(-1, 1).to(features.dtype)).all(0).any())
