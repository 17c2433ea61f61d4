"""``return_attention_weights``: the weights of edges in the form in which PyG's GATConv hands them
back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphformer.finite import fake
from graphformer.graph.keys import numbers_of, order_of
from graphformer.nn.added_loops import GivenList
from graphformer.nn.graph_inputs import GraphInput
from graphformer.uncompiled import uncompiled


def returned(graph: GraphInput, looped: GivenList | None, alpha: Tensor, flow: str) -> Any:
    """``(edge_index, alpha)``, or the sparse matrix that was given with ``alpha`` in it.

    Args:
        looped: the edges with self-loops, where the layer added some.
        alpha: ``[..., E, heads]`` in the order of the edges.
    """
    if looped is None:
        return graph.with_weights(alpha)
    senders, receivers = looped.senders, looped.receivers
    if looped.there is not None:
        if not torch.compiler.is_dynamo_compiling() and (
            torch.compiler.is_compiling() or fake(alpha)
        ):
            raise ValueError(
                "return_attention_weights with add_self_loops=True cannot be exported, or run on "
                "tensors without numbers: how many self-loops make way for others is in the "
                "numbers of edge_index. Set add_self_loops=False and give edges with self-loops, "
                "or leave return_attention_weights out. torch.compile takes such a call with a "
                "break in the graph"
            )
        senders, receivers, alpha = present(looped.there, senders, receivers, alpha)
    if isinstance(graph.source, Tensor):
        rows = (receivers, senders) if flow == "target_to_source" else (senders, receivers)
        return torch.stack(rows), alpha
    num_senders, num_receivers = graph.size
    order = order_of(receivers, senders, num_receivers or 0, num_senders or 0)
    return type(graph.source)(
        row=receivers[order],
        col=senders[order],
        value=alpha[..., order, :],
        sparse_sizes=graph.size[::-1],
        is_sorted=True,
    )


@uncompiled(
    "return_attention_weights with add_self_loops=True: how many self-loops make way for "
    "others is in the numbers of edge_index. Set add_self_loops=False and give edges with "
    "self-loops, or compile without fullgraph"
)
def present(
    there: Tensor, senders: Tensor, receivers: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Ends ``[E]`` and weights ``[..., E, heads]`` of the edges that are ``there``."""
    found = numbers_of(there)
    return senders[found], receivers[found], alpha.index_select(-2, found)
