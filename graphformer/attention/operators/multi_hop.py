"""Sums over several steps of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator, inner_operator
from graphformer.errors import whole


class MultiHopOperator(Operator, name="multi_hop"):
    r"""``out = sum_k c_hk A^k x`` for k = 1..hops, by aggregating again and again: powers of ``A``
    are never formed (MixHop, arXiv 1905.00067; adaptive diffusion, GDC, arXiv 1911.05485).

    ``c`` starts at (1, 0, 0, ...), which is plain attention. Cost: ``hops`` sums over the edges.

    With ``inner`` an operator of sums takes the place of plain attention: for ``"gin"`` and two
    hops, ``out = MLP_h(eps x + c_1 A x + c_2 A^2 x)``, GIN with a second-order term.

    A step reads what the one before has summed at every sender; while decoding, a cache keeps that
    of past tokens (``hops - 1`` vectors of the heads' width a token, beside keys and features).

    Args:
        hops: how many steps.
        num_heads: H; None: those of the layer.
        inner: an operator whose only reduction is the sum, its name or its plain form; None: the
            sum itself.

    Shape: ``[B, H, N, d]`` to the same.
    """

    def __init__(self, hops: int = 2, num_heads: int | None = None, inner: Any = None) -> None:
        super().__init__()
        self.hops = whole("hops", hops)
        self.inner = None if inner is None else inner_operator(self, inner)
        if self.inner is not None and (self.inner.reads_edges or self.inner.reductions != ("sum",)):
            raise ValueError(
                f"operator='multi_hop' hands its sums on, and inner={self.inner.name!r} needs more "
                "than a sum: operator='rounds' runs any operator several times"
            )
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        self.factors = nn.Parameter(torch.empty(whole("num_heads", num_heads), hops))
        self.reset_own_parameters()

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        self.factors.zero_()[:, 0] = 1.0

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        out, step = torch.zeros_like(own), own
        for hop, factor in enumerate(self.factors.unbind(1)):
            step = edges.reduce(edges.of_all_senders(step, hop) if hop else x)
            out = out + factor.view(-1, 1, 1).to(x.dtype) * step
        return out if self.inner is None else self.inner(own, {"sum": out})
