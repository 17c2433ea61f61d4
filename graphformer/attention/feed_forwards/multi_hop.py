"""A feed-forward for each head whose hidden units go several steps over the graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.feed_forwards.base import FeedForward, HeadLinear, of_heads, together
from graphformer.attention.operators.base import EdgeMessages
from graphformer.errors import number, probability


class MultiHopFeedForward(FeedForward, name="multi_hop"):
    r"""A gated feed-forward for each head, one half of which goes K steps over the head's graph
    (arXiv 2501.02393, the code's ``LlamaMLP_MultiHop``).

    .. math::
        u_h = U_h x_h, \qquad z_h = (1 + \epsilon_h) u_h + \sum_{k=1}^{K} c_{hk} A_h^k u_h, \qquad
        \mathrm{out}_h = D_h \big(\mathrm{silu}(G_h x_h) \odot z_h\big)

    with :math:`x_h` the head's slice of the hidden states. The powers of :math:`A` are never
    formed: each step aggregates what the one before gave, so the cost is K sums over the edges of
    ``intermediate_size`` channels a head. Maps are for single heads, so the number of parameters is
    that of the gated feed-forward, while there are ``H * intermediate_size`` hidden units.

    Args:
        factors: where c starts, one number a step; the reference has three.
        hidden_size, intermediate_size, num_heads, dropout: None: those of the block.

    Shape: ``[B, N, hidden_size]`` to the same; u is ``[B, H, N, intermediate_size]``.

    A cache keeps :math:`u, A u, \dots, A^{K-1} u` of past tokens.
    """

    def __init__(
        self,
        factors: tuple[float, ...] = (1.0, 0.5, 0.1),
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_heads: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(factors, (int, float, str)) or not factors:
            raise ValueError(f"factors must hold one number for each step, got {factors!r}")
        self.initial_factors = [number("factors", one) for one in factors]
        self.dropout = probability("dropout", 0.0 if dropout is None else dropout)
        if hidden_size is None or intermediate_size is None or num_heads is None:
            return  # for_layer makes it anew, with the sizes of a block
        if hidden_size % num_heads:
            raise ValueError(
                f"feed_forward='multi_hop': hidden_size {hidden_size} is no multiple of num_heads "
                f"{num_heads}"
            )
        width = hidden_size // num_heads
        self.gate = HeadLinear(num_heads, width, intermediate_size)
        self.up = HeadLinear(num_heads, width, intermediate_size)
        self.down = HeadLinear(num_heads, intermediate_size, width)
        self.eps = nn.Parameter(torch.empty(num_heads))
        self.factors = nn.Parameter(torch.empty(num_heads, len(self.initial_factors)))
        self.reset_own_parameters()

    @torch.no_grad()
    def reset_own_parameters(self) -> None:
        self.eps.zero_()
        self.factors.copy_(self.factors.new_tensor(self.initial_factors).expand_as(self.factors))

    def on_graph(self, x: Tensor, edges: EdgeMessages) -> Tensor:
        x = of_heads(x, edges.heads)
        own = step = self.up(x)
        z = (1 + self.eps).view(-1, 1, 1) * own
        for hop, factor in enumerate(self.factors.unbind(1)):
            step = edges.reduce(edges.of_all_senders(step, hop))
            z = z + factor.view(-1, 1, 1) * step
        out = self.down(F.silu(self.gate(x)) * z.to(own.dtype))
        return F.dropout(together(out), self.dropout, self.training)
