"""What a user may give to a layer on edges beside the graph, checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphformer.finite import readable
from graphformer.nn.edge_list import check_ends
from graphformer.nn.graph_inputs import (
    GraphInput,
    check_size,
    is_dgl,
    read_dgl,
    read_graph,
    refuse_crossing,
    refuse_nan,
)

# pickled layers name them here
from graphformer.nn.maps import GlorotLinear, LazyGlorotLinear  # noqa: F401


def node_features(
    x: Tensor | tuple[Tensor, Tensor | None], in_channels: int | tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """Features of senders and receivers; None where receivers have none. The same tensor twice
    where they are the same nodes.
    """
    if isinstance(x, (tuple, list)):
        if len(x) != 2 or x[0] is None:
            raise ValueError(
                "a bipartite x must be (x_senders, x_receivers), or (x_senders, None) where "
                "receivers have no features"
            )
        x_src, x_dst = x
    else:
        x_src = x_dst = x
    given = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
    names = ("x", "x") if x_src is x_dst else ("x[0] (senders)", "x[1] (receivers)")
    for name, value, width in zip(names, (x_src, x_dst), given, strict=True):
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{name} must be a floating point tensor, got {kind}; embed categories first, or "
                "convert with .float()"
            )
        if value.ndim not in (2, 3) or (width != -1 and value.shape[-1] != width):
            raise ValueError(
                f"{name} must be [nodes, {'channels' if width == -1 else width}], got shape "
                f"{list(value.shape)}"
            )
        refuse_nan(name, value)
        if value.device != x_src.device:
            raise ValueError(
                f"{name} is on {value.device} and the senders' features on {x_src.device}; move "
                "one of them with .to(...)"
            )
    if x_dst is not None and x_src.ndim != x_dst.ndim:
        raise ValueError(
            "x must be two tensors [nodes, channels] or two [B, nodes, channels], got "
            f"{list(x_src.shape)}, {list(x_dst.shape)}"
        )
    if isinstance(in_channels, int) and x_dst is not None and x_src.shape[-1] != x_dst.shape[-1]:
        raise ValueError(
            f"in_channels={in_channels}: senders and receivers share their maps, and x has "
            f"{x_src.shape[-1]} channels of senders, {x_dst.shape[-1]} of receivers; construct the "
            "layer with a pair, in_channels=(-1, -1)"
        )
    return x_src, x_dst


def widths(
    channels: int | tuple[int, int], of_senders: nn.Linear, of_receivers: nn.Linear | None
) -> int | tuple[int, int]:
    """``channels`` with what the first call has decided in the place of -1."""
    if channels != -1 and not (isinstance(channels, tuple) and -1 in channels):
        return channels
    senders, receivers = (
        -1 if one is None or is_lazy(one.weight) else one.weight.shape[1]
        for one in (of_senders, of_receivers)
    )
    return senders if isinstance(channels, int) else (senders, receivers)


def graph_and_nodes(
    x: Any,
    edge_index: Any,
    batch: Tensor | None,
    size: Any,
    channels: int | tuple[int, int],
    flow: str,
) -> tuple[GraphInput, Tensor, Tensor | None, int, int]:
    """The graph, features of senders and receivers, and their numbers; from what PyG and DGL call a
    graph.
    """
    swapped = flow == "target_to_source"
    if is_dgl(x):
        x, graph = read_dgl(x, edge_index, flow)
    else:
        graph = read_graph(edge_index, flow)
        if swapped and isinstance(x, (tuple, list)):
            x = tuple(x[::-1])
    x_src, x_dst = node_features(x, channels)
    found = None if x_dst is None else x_dst.shape[-2]
    sizes = check_size(size, graph, (x_src.shape[-2], found), flow)
    ends = graph.senders, graph.receivers
    check_ends(*ends, *sizes, device=x_src.device, swapped=swapped)
    if batch is not None:
        refuse_crossing(batch, *ends, *sizes)
    return graph, x_src, x_dst, *sizes


def edge_features(
    edge_attr: Tensor | None, num_edges: int, edge_dim: int | None, width: int | None
) -> Tensor | None:
    """``[E, edge_dim]``. ``width``: what the layer's parameters have, None while they wait for
    it.
    """
    if edge_dim is None:
        if edge_attr is not None:
            raise ValueError(
                f"edge_attr {list(edge_attr.shape)} was given to a layer without edge_dim; "
                "construct it with edge_dim=..., or give a number an edge that messages are "
                "multiplied by as edge_weight=..."
            )
        return None
    if edge_attr is None:
        raise ValueError(
            f"edge_attr is missing: this layer was constructed with edge_dim={edge_dim}"
        )
    if edge_attr.ndim == 1 and width in (1, None):
        edge_attr = edge_attr.unsqueeze(-1)
    if (
        edge_attr.ndim != 2
        or edge_attr.shape[0] != num_edges
        or edge_attr.shape[1] != (width or edge_attr.shape[1])
    ):
        raise ValueError(
            f"edge_attr must be [{num_edges}, {width or 'edge_dim'}] (edges, edge_dim), got shape "
            f"{list(edge_attr.shape)}"
        )
    if not edge_attr.is_floating_point():
        raise TypeError(
            f"edge_attr must be floating point, got {edge_attr.dtype}; embed categories first, or "
            "convert with .float()"
        )
    refuse_nan("edge_attr", edge_attr)
    return edge_attr


def stored_values(
    value: Tensor | None,
    source: object,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    edge_dim: int | None,
) -> tuple[Tensor | None, Tensor | None]:
    """``edge_attr`` and ``edge_weight`` where a sparse matrix stores values: they are the edge
    features of a layer that takes some and got none, else the weights of the edges.

    Raises:
        ValueError: values beside arguments that leave no use for them.
    """
    if value is None:
        return edge_attr, edge_weight
    if edge_dim is not None and edge_attr is None:
        return value if value.is_floating_point() else value.to(
            torch.get_default_dtype()
        ), edge_weight
    if value.ndim == 1 and not value.is_floating_point():
        value = value.to(torch.get_default_dtype())  # a matrix of 0 and 1
    if edge_weight is None:
        if value.ndim != 1:
            raise ValueError(
                f"the matrix stores values {list(value.shape)}, features of edges: construct the "
                f"layer with edge_dim={value.shape[-1]}"
                if edge_dim is None
                else f"edge_attr was given, and the matrix stores values {list(value.shape)} too; "
                "keep one of them"
            )
        return edge_attr, value
    # A matrix of torch has values always: only ones say nothing.
    if isinstance(source, Tensor) and (not readable(value) or bool((value == 1).all())):
        return edge_attr, edge_weight
    raise ValueError("edge_weight was given, and the matrix stores values too; keep one of them")


def edge_scores_bias(edge_bias: Tensor | None, num_edges: int, heads: int) -> Tensor | None:
    """``[E, heads]``."""
    if edge_bias is None:
        return None
    if edge_bias.ndim == 1:
        edge_bias = edge_bias.unsqueeze(-1)
    if (
        edge_bias.ndim != 2
        or edge_bias.shape[0] != num_edges
        or edge_bias.shape[1] not in (1, heads)
    ):
        raise ValueError(
            f"edge_bias must be [{num_edges}] or [{num_edges}, {heads}], got shape "
            f"{list(edge_bias.shape)}"
        )
    return edge_bias.expand(-1, heads)


def edge_factors(edge_weight: Tensor | None, num_edges: int) -> Tensor | None:
    """``[E]``."""
    if edge_weight is None:
        return None
    if not isinstance(edge_weight, Tensor) or not edge_weight.is_floating_point():
        kind = edge_weight.dtype if isinstance(edge_weight, Tensor) else type(edge_weight).__name__
        raise TypeError(
            f"edge_weight must be a floating point tensor, got {kind}; convert it with .float()"
        )
    if edge_weight.ndim == 2 and edge_weight.shape[1] == 1:
        edge_weight = edge_weight.squeeze(-1)
    if edge_weight.ndim != 1 or edge_weight.shape[0] != num_edges:
        raise ValueError(
            f"edge_weight must be [{num_edges}], a number an edge, got shape "
            f"{list(edge_weight.shape)}"
        )
    refuse_nan("edge_weight", edge_weight)
    return edge_weight
