"""Messages on the hidden units of the gated feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.feed_forwards.base import FeedForward, of_heads, together
from graphformer.attention.feed_forwards.gated import GatedMLP
from graphformer.attention.operators.base import EdgeMessages
from graphformer.errors import number


class HalfwayFeedForward(GatedMLP, name="halfway"):
    r"""GIN halfway through the feed-forward, on the graph of the block's attention (arXiv
    2501.02393, the code's ``LlamaMLP_HalfwayGIN``).

    .. math::
        u = \mathrm{silu}(W_g x) \odot W_u x, \qquad
        z_{ih} = (1 + \epsilon_h)\, u_{ih} + \alpha_h \sum_{(j \to i)} A_{hij}\, u_{jh}, \qquad
        \mathrm{out} = W_d \Vert_h z_h

    with the hidden units cut into heads. Attention's graph is that before dropout.

    Args:
        alpha: where each :math:`\alpha_h` starts; with 0 it starts as the gated feed-forward.
        hidden_size, intermediate_size, num_heads, dropout: None: those of the block.

    Shape: ``[B, N, hidden_size]`` to the same; u is ``[B, H, N, intermediate_size / H]``.

    A cache keeps u of past tokens: ``intermediate_size`` numbers a token and layer, beside keys and
    values.
    """

    reads_graph = True

    def __init__(
        self,
        alpha: float = 1.0,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_heads: int | None = None,
        dropout: float | None = None,
    ) -> None:
        self.initial_alpha = number("alpha", alpha)
        super().__init__(hidden_size, intermediate_size, dropout)
        if hidden_size is None or intermediate_size is None or num_heads is None:
            return  # for_layer makes it anew, with the sizes of a block
        self.takes_apart(intermediate_size, num_heads)
        self.eps = nn.Parameter(torch.zeros(num_heads))
        self.alpha = nn.Parameter(torch.full((num_heads,), float(alpha)))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.eps)
        nn.init.constant_(self.alpha, self.initial_alpha)

    forward = FeedForward.forward

    def on_graph(self, x: Tensor, edges: EdgeMessages) -> Tensor:
        own = of_heads(self.hidden(x), edges.heads)
        z = (1 + self.eps).view(-1, 1, 1) * own + self.messages(own, edges)
        return self.finished(together(z.to(own.dtype)))

    def messages(self, own: Tensor, edges: EdgeMessages) -> Tensor:
        """What comes over the edges, ``[B, H, N, d]``."""
        return self.alpha.view(-1, 1, 1) * edges.reduce(edges.of_all_senders(own))
