"""What PyG and DGL call a graph, read as senders and receivers, and the errors for what cannot be
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphformer.finite import fake, readable, require_finite, traced


def numberless(value: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers: while a compiler traces, on ``meta``, and where
    it is a fake one.
    """
    return traced() or fake(value)


def refuse_nan(name: str, value: Tensor) -> None:
    """NaN and infinite features would make every score of a node NaN; see :mod:`graphformer.finite`
    for where they are looked for.
    """
    if value.layout != torch.strided:
        value = value._values() if value.layout == torch.sparse_coo else value.values()
    require_finite(value, f"{name} holds", "impute or drop them first")


def refuse_crossing(
    batch: Tensor, senders: Tensor, receivers: Tensor, num_senders: int, num_receivers: int
) -> None:
    """Raise where an edge joins two graphs of a batch."""
    if batch.ndim != 1 or batch.shape[0] != num_senders:
        raise ValueError(
            f"batch must be [{num_senders}], the graph of each node, got shape {list(batch.shape)}"
        )
    if num_senders != num_receivers:
        raise ValueError(
            f"batch numbers the graphs of nodes that send and receive, but here {num_senders} "
            f"nodes send to {num_receivers} others: leave it out; edges keep graphs apart"
        )
    if numberless(batch):
        return
    if not readable(batch):
        torch._assert_async(
            (batch[senders] == batch[receivers]).all(), "an edge joins two graphs of the batch"
        )
        return
    crossing = batch[senders] != batch[receivers]
    if bool(crossing.any()):
        e = int(crossing.nonzero()[0])
        raise ValueError(
            f"edge {e} joins two graphs of the batch (sender {int(senders[e])} of graph "
            f"{int(batch[senders[e]])}, receiver {int(receivers[e])} of graph "
            f"{int(batch[receivers[e]])})"
        )


@dataclass(frozen=True)
class GraphInput:
    """A graph as it was given, read.

    Attributes:
        senders, receivers: integer ``[E]``.
        source: what was given, in which attention weights are handed back.
        size: the numbers of senders and receivers where the graph itself tells, else None.
        value: what a sparse matrix stores for each edge, ``[E]`` or ``[E, D]``.
    """

    senders: Tensor
    receivers: Tensor
    source: Any
    size: tuple[int | None, int | None] = (None, None)
    value: Tensor | None = None

    def with_weights(self, alpha: Tensor) -> Any:
        """What PyG's attention layers return as attention weights: ``(edge_index, alpha)``, or the
        sparse matrix with ``alpha`` in it.
        """
        if isinstance(self.source, Tensor):
            if self.source.layout == torch.strided:
                return self.source, alpha
            from torch_geometric.utils.sparse import set_sparse_value

            return set_sparse_value(self.source, alpha), alpha
        return self.source.set_value(alpha, layout="coo")


def read_graph(edge_index: Any, flow: str) -> GraphInput:
    """From ``edge_index``, an ``EdgeIndex``, or PyG's ``adj_t``: a sparse matrix with receivers in
    rows, of torch or of torch-sparse.
    """
    from torch_geometric import EdgeIndex  # language models do without PyG
    from torch_geometric.index import ptr2index

    if isinstance(edge_index, Tensor) and edge_index.layout == torch.strided:
        if edge_index.ndim != 2 or edge_index.shape[0] != 2:
            raise ValueError(
                "edge_index must be [2, edges] (senders, receivers), got shape "
                f"{list(edge_index.shape)}"
            )
        plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
        first, second = plain[0], plain[1]
        # of an EdgeIndex: rows are its first row's nodes
        size = tuple(getattr(edge_index, "_sparse_size", None) or (None, None))
        if flow == "target_to_source":
            first, second, size = second, first, size[::-1]
        return GraphInput(first, second, edge_index, size)
    if flow == "target_to_source":
        raise ValueError(
            f"flow='target_to_source' cannot be had with a {type(edge_index).__name__}, whose rows "
            "are receivers by convention: give its transpose, adj_t.t(), to a layer with "
            "flow='source_to_target'"
        )
    if isinstance(edge_index, Tensor):
        if edge_index.ndim - edge_index.dense_dim() != 2:
            raise ValueError(
                f"adj_t must be [receivers, senders], got shape {list(edge_index.shape)}"
            )
        if edge_index.layout == torch.sparse_coo:
            receivers, senders = edge_index._indices()  # equal pairs stay apart, as everywhere here
            value = edge_index._values()
        elif edge_index.layout == torch.sparse_csr:
            receivers, senders, value = (
                ptr2index(edge_index.crow_indices()),
                edge_index.col_indices(),
                edge_index.values(),
            )
        elif edge_index.layout == torch.sparse_csc:
            receivers, senders, value = (
                edge_index.row_indices(),
                ptr2index(edge_index.ccol_indices()),
                edge_index.values(),
            )
        else:
            raise TypeError(
                f"adj_t of layout {edge_index.layout} is not known; convert it with "
                ".to_sparse_csr()"
            )
        return GraphInput(
            senders, receivers, edge_index, (edge_index.shape[1], edge_index.shape[0]), value
        )
    if hasattr(edge_index, "coo"):  # torch_sparse.SparseTensor
        receivers, senders, value = edge_index.coo()
        return GraphInput(
            senders, receivers, edge_index, (edge_index.size(1), edge_index.size(0)), value
        )
    raise TypeError(
        "edge_index must be a [2, edges] tensor, a sparse adj_t, or node features after a "
        f"DGLGraph; got {type(edge_index)}"
    )


def check_size(
    size: Any, graph: GraphInput, found: tuple[int, int | None], flow: str
) -> tuple[int, int]:
    """The numbers of senders and receivers: from the features, then from ``size`` and from the
    graph, which must agree.

    Args:
        size: what the user gave, in the order of the rows of ``edge_index``.
        found: rows of the features; None where receivers have none.
    """
    if size is not None:
        if not isinstance(size, (tuple, list, torch.Size)) or len(size) != 2:
            raise TypeError(
                f"size must be a pair (number of senders, number of receivers), got {size!r}"
            )
        size = tuple(size[::-1]) if flow == "target_to_source" else tuple(size)
    known: list[int | None] = list(found)
    for source, sizes in (("size", size), ("the matrix or EdgeIndex", graph.size)):
        for side, name in enumerate(("senders", "receivers")):
            told = None if sizes is None else sizes[side]
            if told is None:
                continue
            if known[side] is None:
                known[side] = int(told)
            elif known[side] != told:
                raise ValueError(
                    f"{source} says {told} {name}, but there are features of {known[side]}: give "
                    "as many rows as nodes"
                )
    senders, receivers = known
    assert senders is not None
    # as PyG: who tells of no receivers has as many as senders
    return senders, senders if receivers is None else receivers


def is_dgl(value: Any) -> bool:
    """Whether it is a DGLGraph, found out without importing DGL."""
    return any(kind.__module__.split(".")[0] == "dgl" for kind in type(value).__mro__)


def read_dgl(graph: Any, feat: Any, flow: str) -> tuple[Any, GraphInput]:
    """Features and edges of a DGLGraph, in the order of its edge numbers, which is that of its edge
    features.

    Features are one tensor, or the pair (senders', receivers'): the first nodes of a block are its
    receivers, as in DGL's own layers.
    """
    if flow == "target_to_source":
        raise ValueError(
            "flow='target_to_source' is PyG's; a DGLGraph sends along its edges: give "
            "dgl.reverse(graph)"
        )
    if feat is None:
        raise ValueError(
            "with a DGLGraph the second argument is its node features: conv(graph, feat, edge_feat)"
        )
    if graph.is_block and not isinstance(feat, (tuple, list)):
        feat = feat, feat[: graph.num_dst_nodes()]
    sizes = [len(part) for part in (feat if isinstance(feat, (tuple, list)) else (feat, feat))]
    if sizes != [graph.num_src_nodes(), graph.num_dst_nodes()]:
        raise ValueError(
            f"feat has {sizes} rows (senders, receivers), but the DGLGraph "
            f"{[graph.num_src_nodes(), graph.num_dst_nodes()]}"
        )
    if len(graph.canonical_etypes) != 1:
        raise ValueError(
            f"the DGLGraph has {len(graph.canonical_etypes)} types of edges; give one of them: "
            f"graph[{graph.canonical_etypes[0]}]"
        )
    # a graph that is stored in rows or columns only knows no other order
    senders, receivers, numbers = graph.edges(form="all", order=None)
    order = torch.argsort(numbers)
    senders, receivers = senders[order], receivers[order]
    return feat, GraphInput(senders, receivers, torch.stack((senders, receivers)))
