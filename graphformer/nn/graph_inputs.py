"""What PyG and DGL call a graph, read as senders and receivers, and the errors for what cannot be read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer.finite import require_finite


def refuse_nan(name: str, value: Tensor) -> None:
    """NaN and infinite features would make every score of a node NaN; see :mod:`graphformer.finite` for where they are looked for."""
    require_finite(value, f"{name} holds", "impute or drop them first")


def refuse_crossing(batch: Tensor, senders: Tensor, receivers: Tensor, num_senders: int, num_receivers: int) -> None:
    """Raise where an edge joins two graphs of a batch."""
    if batch.ndim != 1 or len(batch) != num_senders:
        raise ValueError(f"batch must be [{num_senders}], the graph of each node, got shape {list(batch.shape)}")
    if num_senders != num_receivers:
        return  # bipartite: batch numbers the senders, and what the receivers' would be is not known
    crossing = batch[senders] != batch[receivers]
    if bool(crossing.any()):
        e = int(crossing.nonzero()[0])
        raise ValueError(
            f"edge {e} joins two graphs of the batch (sender {int(senders[e])} of graph {int(batch[senders[e]])}, "
            f"receiver {int(receivers[e])} of graph {int(batch[receivers[e]])})"
        )


def ends(edge_index: Any) -> tuple[Tensor, Tensor]:
    """Senders and receivers from ``edge_index``, or from PyG's ``adj_t``: a sparse matrix with receivers in rows."""
    if isinstance(edge_index, Tensor) and edge_index.layout == torch.strided:
        if edge_index.ndim != 2 or len(edge_index) != 2:
            raise ValueError(f"edge_index must be [2, edges] (senders, receivers), got shape {list(edge_index.shape)}")
        senders, receivers = edge_index.as_subclass(Tensor)
        return senders, receivers
    if isinstance(edge_index, Tensor):
        receivers, senders = edge_index.to_sparse_coo().coalesce().indices()
        return senders, receivers
    if hasattr(edge_index, "coo"):  # torch_sparse.SparseTensor
        receivers, senders, _ = edge_index.coo()
        return senders, receivers
    raise TypeError(f"edge_index must be a [2, edges] tensor, a sparse adj_t, or node features after a DGLGraph; got {type(edge_index)}")


def is_dgl(value: Any) -> bool:
    """Whether it is a DGLGraph, found out without importing DGL."""
    return any(kind.__module__.split(".")[0] == "dgl" for kind in type(value).__mro__)


def dgl_ends(graph: Any) -> tuple[Tensor, Tensor]:
    """Senders and receivers of a DGLGraph in the order of its edge numbers, which is that of its edge features."""
    if len(graph.canonical_etypes) != 1:
        raise ValueError(
            f"the DGLGraph has {len(graph.canonical_etypes)} types of edges; give one of them: graph[{graph.canonical_etypes[0]}]"
        )
    senders, receivers, numbers = graph.edges(form="all", order=None)  # a graph that is stored in rows or columns only knows no other order
    order = torch.argsort(numbers)
    return senders[order], receivers[order]


def dgl_features(graph: Any, feat: Any) -> Any:
    """One tensor, or the pair (senders', receivers'): the first nodes of a block are its receivers, as in DGL's own layers."""
    if feat is None:
        raise ValueError("with a DGLGraph the second argument is its node features: conv(graph, feat, edge_feat)")
    if graph.is_block and not isinstance(feat, (tuple, list)):
        feat = feat, feat[: graph.num_dst_nodes()]
    sizes = [len(part) for part in (feat if isinstance(feat, (tuple, list)) else (feat, feat))]
    if sizes != [graph.num_src_nodes(), graph.num_dst_nodes()]:
        raise ValueError(f"feat has {sizes} rows (senders, receivers), but the DGLGraph {[graph.num_src_nodes(), graph.num_dst_nodes()]}")
    return feat
