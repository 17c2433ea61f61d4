"""Sums over several steps of the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator
from graphformer.errors import whole


class MultiHopOperator(Operator, name="multi_hop"):
    r"""``out = sum_k c_hk A^k x`` for k = 1..hops, by aggregating again and again: powers of ``A``
    are never formed (MixHop, arXiv 1905.00067; adaptive diffusion, GDC, arXiv 1911.05485).

    ``c`` starts at (1, 0, 0, ...), which is plain attention. Cost: ``hops`` sums over the edges.

    A second step reads what earlier rows have summed, so all rows must be at hand: decoding with a
    cache is refused (``use_cache=False`` generates).

    Args:
        hops: how many steps.
        num_heads: H; None: those of the layer.
    """

    def __init__(self, hops: int = 2, num_heads: int | None = None) -> None:
        super().__init__()
        self.hops = whole("hops", hops)
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.factors = nn.Parameter(torch.empty(whole("num_heads", num_heads), hops))
        self.reset_own_parameters()

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        self.factors.zero_()[:, 0] = 1.0

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        if own.shape[2] != x.shape[2]:
            raise ValueError(
                f"operator='multi_hop' has {own.shape[2]} receivers and {x.shape[2]} senders: a "
                "second step needs the sums of all senders. Call without a cache (use_cache=False)"
            )
        out = torch.zeros_like(own)
        for factor in self.factors.unbind(1):
            x = edges.reduce(x)
            out = out + factor.view(-1, 1, 1).to(x.dtype) * x
        return out
