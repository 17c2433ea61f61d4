"""AttentionGraph to and from dense tensors, scipy, networkx, PyG and DGL: its methods.

Where senders and receivers are the same nodes the result is an ordinary graph on
``num_lanes * num_nodes`` nodes. Where they differ (decoding with a cache: fewer queries than keys)
the result is bipartite, with node types ``sender`` and ``receiver``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphformer.errors import require
from graphformer.graph import given_weights
from graphformer.graph.counts import refuse_nan

if TYPE_CHECKING:
    import dgl
    import networkx
    import scipy.sparse
    import torch_geometric.data

    from graphformer.graph.attention_graph import AttentionGraph

_BIPARTITE = ("sender", "to", "receiver")


def from_dense(weights: Tensor, *, keep: Tensor | None = None) -> AttentionGraph:
    """A graph from attention matrices ``[..., num_receivers, num_senders]``; the leading axes are
    the lanes.

    Non-zero entries become edges, or, where ``keep`` (bool, the same shape) is given, exactly the
    kept ones. The weights stay differentiable.
    """
    from graphformer.graph.attention_graph import AttentionGraph

    if weights.ndim < 2:
        raise ValueError(
            f"weights must be [..., num_receivers, num_senders], got shape {tuple(weights.shape)}"
        )
    if not weights.is_floating_point():
        raise TypeError(
            f"weights must be floating point, got {weights.dtype}; convert it with weights.float()"
        )
    if keep is None:
        keep = weights.detach() != 0
    elif keep.shape != weights.shape or keep.dtype != torch.bool:
        raise ValueError(
            f"keep must be bool of shape {tuple(weights.shape)}, got {keep.dtype} of shape "
            f"{tuple(keep.shape)}"
        )
    *batch, num_receivers, num_senders = weights.shape
    num_lanes = math.prod(batch)
    lane, receiver, sender = keep.reshape(num_lanes, num_receivers, num_senders).nonzero(
        as_tuple=True
    )
    weight = weights[keep]
    refuse_nan(weight)
    ends = lane * num_senders + sender, lane * num_receivers + receiver
    return AttentionGraph.of_sorted(ends, weight, (num_senders, num_receivers), tuple(batch))


def to_dense(graph: AttentionGraph) -> Tensor:
    """``[*batch_shape, num_receivers, num_senders]`` with 0 where there is no edge; parallel edges
    add up. Differentiable.
    """
    local = graph.senders % max(graph.num_senders, 1)
    flat = graph.weight.new_zeros(graph.num_lanes * graph.num_receivers * graph.num_senders)
    flat = flat.index_add(0, graph.receivers * graph.num_senders + local, graph.weight)
    return flat.view(*graph.batch_shape, graph.num_receivers, graph.num_senders)


def _numpy(weight: Tensor) -> np.ndarray:
    weight = weight.detach().cpu()
    return (weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight).numpy()


def to_scipy(graph: AttentionGraph) -> scipy.sparse.csr_array:
    """``scipy.sparse.csr_array`` ``[num_lanes * num_receivers, num_lanes * num_senders]``,
    block-diagonal over lanes.
    """
    from scipy.sparse import csr_array

    shape = (graph.num_lanes * graph.num_receivers, graph.num_lanes * graph.num_senders)
    return csr_array(
        (_numpy(graph.weight), graph.senders.cpu().numpy(), graph.indptr.cpu().numpy()), shape=shape
    )


def from_scipy(matrix: scipy.sparse.sparray | scipy.sparse.spmatrix) -> AttentionGraph:
    """One lane from a scipy sparse matrix with receivers in rows and senders in columns. Stored
    entries become edges, explicit zeros included.

    Raises:
        TypeError: complex entries. ValueError: whole numbers that torch's default dtype rounds.
    """
    from graphformer.graph.attention_graph import AttentionGraph

    coo = matrix.tocoo()
    weight = torch.from_numpy(np.ascontiguousarray(coo.data))
    return AttentionGraph.from_edges(
        torch.from_numpy(coo.col.astype(np.int64)),
        torch.from_numpy(coo.row.astype(np.int64)),
        given_weights.floating("the matrix", weight),
        num_senders=matrix.shape[1],
        num_receivers=matrix.shape[0],
    )


def to_networkx(graph: AttentionGraph) -> networkx.DiGraph:
    """``networkx.DiGraph`` with edge attribute ``weight``; nodes are the global indices, or
    ``("sender", j)`` and ``("receiver", i)`` where the sides differ.

    Parallel edges add up, because a ``DiGraph`` holds one edge a pair.
    """
    library = require("networkx", extra="viz", why="to_networkx()")
    out = library.DiGraph()
    total: dict[tuple[int, int], float] = {}
    for pair in zip(
        graph.senders.tolist(), graph.receivers.tolist(), graph.weight.tolist(), strict=True
    ):
        total[pair[:2]] = total.get(pair[:2], 0.0) + pair[2]
    if graph.num_senders == graph.num_receivers:
        out.add_nodes_from(range(graph.num_lanes * graph.num_nodes))
        out.add_weighted_edges_from((j, i, w) for (j, i), w in total.items())
    else:
        out.add_nodes_from(("sender", j) for j in range(graph.num_lanes * graph.num_senders))
        out.add_nodes_from(("receiver", i) for i in range(graph.num_lanes * graph.num_receivers))
        out.add_weighted_edges_from(
            (("sender", j), ("receiver", i), w) for (j, i), w in total.items()
        )
    return out


def from_networkx(graph: networkx.DiGraph, weight: str = "weight") -> AttentionGraph:
    """One lane; edges run from sender to receiver, an undirected edge runs both ways. Nodes are
    numbered in the graph's own order, weights are of torch's default dtype.

    Nodes that are all called ``("sender", j)`` or ``("receiver", i)`` are those of two sides, as
    :func:`to_networkx` names them.

    Args:
        graph: the graph.
        weight: the attribute of edges that is their weight. Where all lack it, they weigh 1; where
            some do, these, and a warning says so.

    Raises:
        ValueError: no edge has an attribute of a name that was given; an edge that does not lead
            from a sender to a receiver.
    """
    from graphformer.graph.attention_graph import AttentionGraph

    nodes = list(graph.nodes)
    kinds = [node[0] if isinstance(node, tuple) and len(node) == 2 else None for node in nodes]
    bipartite = bool(nodes) and set(kinds) <= {"sender", "receiver"}
    number: dict[Any, int] = {}
    counts: dict[Any, int] = {}
    for node, kind in zip(nodes, kinds, strict=True):
        side = kind if bipartite else None
        number[node] = counts.get(side, 0)
        counts[side] = number[node] + 1
    given_weights.of_networkx(graph, weight)
    directed = graph if graph.is_directed() else graph.to_directed()
    ends = list(directed.edges(data=weight, default=1.0))
    if bipartite:
        if not graph.is_directed():  # the one direction that there is between the sides
            ends = [end for end in ends if end[0][0] == "sender" or end[0][0] == end[1][0]]
        for u, v, _ in ends:
            if (u[0], v[0]) != ("sender", "receiver"):
                raise ValueError(
                    f"the edge from {u} to {v} does not lead from a sender to a receiver; turn it, "
                    "or name the nodes in another way"
                )
    edges = [(number[u], number[v], float(w)) for u, v, w in ends]
    return AttentionGraph.from_edges(
        torch.tensor([e[0] for e in edges], dtype=torch.int64),
        torch.tensor([e[1] for e in edges], dtype=torch.int64),
        torch.tensor([e[2] for e in edges]),
        num_senders=counts.get("sender", 0) if bipartite else len(nodes),
        num_receivers=counts.get("receiver", 0) if bipartite else len(nodes),
    )


def to_pyg(graph: AttentionGraph) -> torch_geometric.data.Data | torch_geometric.data.HeteroData:
    """PyG ``Data`` with ``edge_index`` and ``edge_weight``, lanes in ``batch`` and their shape in
    ``batch_shape``.

    Where senders and receivers differ: ``HeteroData`` with the edge type
    ``("sender", "to", "receiver")``.
    """
    from torch_geometric.data import Data, HeteroData

    if graph.num_senders == graph.num_receivers:
        lanes = torch.arange(graph.num_lanes, device=graph.device).repeat_interleave(
            graph.num_nodes
        )
        out = Data(
            edge_index=graph.edge_index,
            edge_weight=graph.weight,
            num_nodes=graph.num_lanes * graph.num_nodes,
            batch=lanes,
        )
    else:
        out = HeteroData()
        out["sender"].num_nodes = graph.num_lanes * graph.num_senders
        out["receiver"].num_nodes = graph.num_lanes * graph.num_receivers
        out[_BIPARTITE].edge_index = graph.edge_index
        out[_BIPARTITE].edge_weight = graph.weight
    out.batch_shape = graph.batch_shape
    return out


def from_pyg(data: torch_geometric.data.Data | torch_geometric.data.HeteroData) -> AttentionGraph:
    """The inverse of :func:`to_pyg`; any ``Data`` with ``edge_index`` and ``edge_weight``, or with
    an ``adj_t`` whose values are the weights, is one lane.

    ``batch_shape`` is taken from the object where :func:`to_pyg` left it. Without ``edge_weight``
    edges weigh 1; a number for each edge in ``edge_attr`` or ``weight`` is told in a warning.

    Raises:
        ValueError: no edges are told, weights of another shape, or nodes whose ``batch`` is not
            that of the lanes of ``batch_shape``.
    """
    from torch_geometric.data import HeteroData

    batch_shape = tuple(data.batch_shape) if "batch_shape" in data else ()
    if not all(isinstance(size, int) for size in batch_shape):
        # a PyG Batch of graphs holds the shape of each; together they are one lane
        batch_shape = ()
    num_lanes = max(math.prod(batch_shape), 1)
    if isinstance(data, HeteroData):
        if data.edge_types != [_BIPARTITE]:
            raise ValueError(
                f"HeteroData must have the edge type {_BIPARTITE} and no other, got "
                f"{data.edge_types}"
            )
        store, num_senders, num_receivers = (
            data[_BIPARTITE],
            data["sender"].num_nodes,
            data["receiver"].num_nodes,
        )
    else:
        if data.edge_index is None and data.get("adj_t") is None:
            raise ValueError(
                "this Data has no edge_index; for a graph without edges give an empty one, "
                "torch.empty(2, 0, dtype=torch.long)"
            )
        store, num_senders, num_receivers = data, data.num_nodes, data.num_nodes
        _refuse_other_lanes(data, num_lanes)
    from graphformer.graph.attention_graph import AttentionGraph
    from graphformer.nn.graph_inputs import read_graph

    given = read_graph(
        store.edge_index if store.get("edge_index") is not None else store.adj_t, "source_to_target"
    )
    weight = store.edge_weight if "edge_weight" in store else given.value
    if weight is None:
        given_weights.tell_unread(store, given.senders.shape[0])
    if weight is not None and weight.ndim == 2 and weight.shape[1] == 1:
        weight = weight.squeeze(1)
    if weight is not None and weight.ndim != 1:
        raise ValueError(
            f"edge weights must be [{given.senders.shape[0]}], a number an edge, got shape "
            f"{list(weight.shape)}"
        )
    return AttentionGraph.from_edges(
        given.senders,
        given.receivers,
        None if weight is None else given_weights.floating("edge_weight", weight),
        num_senders=num_senders // num_lanes,
        num_receivers=num_receivers // num_lanes,
        batch_shape=batch_shape,
    )


def _refuse_other_lanes(data: torch_geometric.data.Data, num_lanes: int) -> None:
    """A Data whose nodes were taken out or added since :func:`to_pyg`: its lanes are unequal."""
    batch, count = data.get("batch"), data.num_nodes
    if num_lanes == 1 or batch is None:
        return
    lanes = torch.arange(num_lanes, device=batch.device)
    if count % num_lanes or not torch.equal(batch, lanes.repeat_interleave(count // num_lanes)):
        raise ValueError(
            f"batch_shape={tuple(data.batch_shape)} says that there are {num_lanes} lanes of equal "
            f"size, and batch has {torch.bincount(batch, minlength=num_lanes).tolist()} nodes in "
            "them: were nodes taken out? Then del data.batch_shape makes them one lane"
        )


def to_dgl(graph: AttentionGraph) -> dgl.DGLGraph:
    """A ``DGLGraph`` with edge data ``w``; its batch numbers are the lanes. Bipartite where senders
    and receivers differ.
    """
    library = require("dgl", extra="dgl", why="to_dgl()")
    if graph.num_senders == graph.num_receivers:
        out = library.graph(
            (graph.senders, graph.receivers), num_nodes=graph.num_lanes * graph.num_nodes
        )
        out.set_batch_num_nodes(
            torch.full((graph.num_lanes,), graph.num_nodes, device=graph.device)
        )
        out.set_batch_num_edges(torch.bincount(graph.sender_lane, minlength=graph.num_lanes))
    else:
        sizes = {
            "sender": graph.num_lanes * graph.num_senders,
            "receiver": graph.num_lanes * graph.num_receivers,
        }
        out = library.heterograph(
            {_BIPARTITE: (graph.senders, graph.receivers)}, num_nodes_dict=sizes
        )
        out.set_batch_num_nodes(
            {
                side: torch.full((graph.num_lanes,), size // max(graph.num_lanes, 1))
                for side, size in sizes.items()
            }
        )
        out.set_batch_num_edges(
            {_BIPARTITE: torch.bincount(graph.sender_lane, minlength=graph.num_lanes)}
        )
    out.edata["w"] = graph.weight
    return out


def from_dgl(graph: dgl.DGLGraph, weight: str = "w") -> AttentionGraph:
    """The inverse of :func:`to_dgl`; each graph of a DGL batch becomes a lane, graphs of unequal
    size become one lane together.

    Args:
        graph: the graph, with one type of edges.
        weight: the name of the weights in ``edata``. Unless another name is given, edges without
            them weigh 1; a number for each edge under another name is told in a warning.

    Raises:
        ValueError: no edge data of a name that was given, or several types of edges.
    """
    from graphformer.graph.attention_graph import AttentionGraph

    if len(graph.canonical_etypes) != 1:
        raise ValueError(
            f"the DGLGraph has {len(graph.canonical_etypes)} types of edges; give one of them: "
            f"graph[{graph.canonical_etypes[0]}]"
        )
    senders, receivers = graph.edges(order="eid")
    if weight not in graph.edata:
        given_weights.refuse_misspelt(weight, "w", graph.edata, "edata")
        given_weights.tell_unread(graph.edata, len(senders), list(graph.edata), "edata", weight)
    # DGL sorts its node types by name, so the sides come from the edge type.
    sender_side, _, receiver_side = graph.canonical_etypes[0]
    sides = (sender_side, receiver_side)
    sizes = [graph.batch_num_nodes(side) for side in sides]
    num_lanes = graph.batch_size if all(bool((size == size[:1]).all()) for size in sizes) else 1
    return AttentionGraph.from_edges(
        senders,
        receivers,
        graph.edata.get(weight),
        num_senders=graph.num_nodes(sides[0]) // max(num_lanes, 1),
        num_receivers=graph.num_nodes(sides[1]) // max(num_lanes, 1),
        batch_shape=() if num_lanes == 1 else (num_lanes,),
    )
