r"""Pointers: the distribution of a node's edges is the output.

A network scores the candidate edges; each receiver's scores become weights of sum 1, and it points
to the sender of greatest weight. A permutation, a tour or a hull is then a graph that is read off
the weights, of as many nodes as come (Vinyals et al., Pointer networks, arXiv 1506.03134). The
scores of a network over graphs are its predictions for edges:

>>> net = gf.GraphTransformer(node_dim=2, edge_dim=5, target="edge", candidates="edges")
>>> logits = net(data).prediction.squeeze(-1)  # [E]
>>> graph = gf.nn.pointer_graph(logits, data.edge_index, data.num_nodes)
>>> gf.nn.pointed(graph)  # [N]
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.graph import AttentionGraph
from graphformer.nn.edge_list import EdgeList


def pointer_graph(logits: Tensor, edge_index: Tensor, num_nodes: int) -> AttentionGraph:
    r"""The distribution of each receiver over its senders:

    .. math:: w_{ij} = \frac{e^{s_{ij}}}{\sum_{k \in N(i)} e^{s_{ik}}}

    Args:
        logits: s, floating ``[E]``, one an edge.
        edge_index: int64 ``[2, E]``, senders and receivers: what each node may point to. Parallel
            edges are alternatives of their own.
        num_nodes: N.

    Returns:
        one lane over N nodes, differentiable in ``logits``; a node without edges has an empty row.

    Raises:
        ValueError: logits of another number than edges, or ends out of range.
    """
    edges = _edges(logits, edge_index, num_nodes)
    weight = log_weights(logits, edge_index, num_nodes)[edges.order].exp()
    sizes = num_nodes, num_nodes
    return AttentionGraph.of_sorted((edges.senders, edges.receivers), weight, sizes)


def pointer_loss(logits: Tensor, edge_index: Tensor, num_nodes: int, chosen: Tensor) -> Tensor:
    r"""Cross entropy of pointers, the mean over the receivers that have a chosen edge:

    .. math:: L = -\frac{1}{|M|} \sum_{i \in M} \log w_{i c_i}

    Args:
        logits, edge_index, num_nodes: as for :func:`pointer_graph`.
        chosen: bool ``[E]``: the edge that each receiver is to point along, at most one for each.

    Raises:
        ValueError: two chosen edges of one receiver, none at all, or another shape.
    """
    if chosen.shape != logits.shape or chosen.dtype != torch.bool:
        raise ValueError(
            f"chosen must be bool {list(logits.shape)}, one an edge, got {chosen.dtype} of shape "
            f"{list(chosen.shape)}"
        )
    receivers = edge_index[1][chosen]
    if not len(receivers):
        raise ValueError("chosen names no edge: there is nothing to learn")
    if bool((torch.bincount(receivers, minlength=num_nodes) > 1).any()):
        node = int(torch.bincount(receivers).argmax())
        raise ValueError(f"chosen names several edges of node {node}, which points along one")
    return -log_weights(logits, edge_index, num_nodes)[chosen].mean()


def pointed(graph: AttentionGraph) -> Tensor:
    """The sender that each receiver gives most weight, the lowest of equals; -1 without edges.

    Args:
        graph: one lane.

    Returns:
        int64 ``[N]``.
    """
    if graph.num_lanes != 1:
        raise ValueError(f"graph must have one lane, got {graph.num_lanes}: take .lane(i)")
    size, weight = graph.num_receivers, graph.weight.detach()
    top = weight.new_full((size,), -torch.inf).scatter_reduce(0, graph.receivers, weight, "amax")
    best = weight == top[graph.receivers]
    none = graph.num_senders
    first = graph.senders.new_full((size,), none).scatter_reduce(
        0, graph.receivers[best], graph.senders[best], "amin"
    )
    return torch.where(first == none, -1, first)


def log_weights(logits: Tensor, edge_index: Tensor, num_nodes: int) -> Tensor:
    """Logarithms of the weights ``[E]``, in the order of ``edge_index``."""
    _edges(logits, edge_index, num_nodes)
    receivers = edge_index[1]
    top = logits.new_full((num_nodes,), -torch.inf).scatter_reduce(
        0, receivers, logits.detach(), "amax"
    )
    below = logits - top[receivers]
    total = below.new_zeros(num_nodes).index_add(0, receivers, below.exp())
    return below - total.log()[receivers]


def _edges(logits: Tensor, edge_index: Tensor, num_nodes: int) -> EdgeList:
    if edge_index.ndim != 2 or logits.shape != edge_index.shape[1:]:
        raise ValueError(
            f"logits must be [{edge_index.shape[-1]}], one for each edge of edge_index, got shape "
            f"{list(logits.shape)}"
        )
    return EdgeList.sort(edge_index[0], edge_index[1], num_nodes, num_nodes)


__all__ = ["log_weights", "pointed", "pointer_graph", "pointer_loss"]
