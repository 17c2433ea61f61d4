"""One graph for all heads, merged by trained weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.attend import is_degree, reduce
from graphformer.attention.operators.base import EdgeMessages, Operator, inner_operator
from graphformer.errors import whole
from graphformer.graph import AttentionGraph


class MergedHeadsOperator(Operator, name="merged_heads"):
    r"""The heads' graphs merged into one, a convex combination that is trained; every head sends
    over it.

    .. math::
        A = \sum_h p_h A_h, \quad p = \mathrm{softmax}(m), \qquad
        \mathrm{out}_h = \mathrm{operator}_h(x_h, A)

    The weights m start at 0, where A is the heads' mean. A head without an edge counts as 0 there,
    so rows that sum to 1 still do. The edges are those of all heads together.

    Args:
        inner: the operator on the merged graph, its name or its plain form.
        num_heads: H; None: those of the layer.

    Shape: ``[B, H, N, d]`` to the same. The graph that a layer returns is that of the heads;
    :meth:`merged` gives the other.

    Source: arXiv 2501.02393, section 2.3 (merged graphs); the weights are one for each head, where
    its code has a network for each pair (:class:`graphformer.compat.xgpt.LearnedMerge`), whose
    softmax runs over the row's total length.
    """

    def __init__(self, inner: Any = "sum", num_heads: int | None = None) -> None:
        super().__init__()
        self.inner = inner_operator(self, inner)
        norms = [name for name in self.inner.reductions if "_norm" in name]
        if self.inner.reads_edges or norms:
            what = "the edges of each head" if self.inner.reads_edges else f"{norms[0]} of a head"
            raise ValueError(
                f"operator='merged_heads' has one graph for all heads, and "
                f"inner={self.inner.name!r} reads {what}: take 'sum', 'gin', or 'pna' with other "
                "aggregators"
            )
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.logits = nn.Parameter(torch.empty(whole("num_heads", num_heads)))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.logits)

    def merged(self, graph: AttentionGraph) -> AttentionGraph:
        """The one graph, lanes ``(B,)``, of the heads' ``(B, H)``."""
        factor = self.logits.softmax(0).to(graph.weight.dtype)
        head = graph.sender_lane % len(factor)
        return graph.with_weight(graph.weight * factor[head]).merge_heads("sum")

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        graph = self.merged(edges.graph)
        beside = x.transpose(1, 2).flatten(2)  # [B, Nk, H * d]: all heads have the same edges
        beside = beside.view(*graph.batch_shape, *beside.shape[1:])
        found = reduce(graph, graph, beside, self.inner.reductions, edges.backend)
        batch, heads = own.shape[:2]

        def split(name: str, t: Tensor) -> Tensor:
            t = t.view(batch, graph.num_receivers, -1)
            return (
                t.unsqueeze(1) if is_degree(name) else t.unflatten(2, (heads, -1)).transpose(1, 2)
            )

        return self.inner(own, {name: split(name, value) for name, value in found.items()})
