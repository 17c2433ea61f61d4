"""Several reductions of the hidden units of the gated feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.feed_forwards.base import FeedForward, HeadLinear, of_heads, together
from graphformer.attention.feed_forwards.gated import GatedMLP
from graphformer.attention.operators.base import EdgeMessages
from graphformer.backends.base import REDUCTIONS

AGGREGATORS = ("sum", "mean", "max", "var")
LEAST = 1e-9
"""Added to a weight under the logarithm."""


class MultiAggregateFeedForward(GatedMLP, name="multi_aggregate"):
    r"""Several reductions halfway through the feed-forward (arXiv 2501.02393, the code's
    ``LlamaMLP_HalfwayGIN_MultiAggregation``, whose maximum is the token's own value; here it runs
    over the kept senders).

    .. math::
        u = \mathrm{silu}(W_g x) \odot W_u x, \qquad
        z_{ih} = W_2\, \mathrm{silu}\big(W_1 \big[(1 + \epsilon_h) u_{ih} \,\Vert\,
        \mathrm{reduce}_{(j \to i)}\, u_{jh} \text{ for each}\big]\big), \qquad
        \mathrm{out} = W_d \Vert_h z_h

    with the hidden units cut into heads, which share :math:`W_1` and :math:`W_2`. A sum is
    multiplied by a trained :math:`\alpha_h` that starts at 1.

    Args:
        aggregators: reductions of :func:`graphformer.aggregate`; or ``attention``: the mean of the
            senders by a second attention on the same edges, with weights
            :math:`\mathrm{softmax}_j(\langle Q_h u_i, K_h u_j \rangle / \sqrt{d} + \log(w_{ij}
            + 10^{-9}))`; a weight below 0 counts as 0 there.
        hidden_size, intermediate_size, num_heads, dropout: None: those of the block.

    Shape: ``[B, N, hidden_size]`` to the same; u is ``[B, H, N, d]``, ``d = intermediate_size /
    H``.

    A cache keeps u of past tokens.
    """

    reads_graph = True

    def __init__(
        self,
        aggregators: tuple[str, ...] = AGGREGATORS,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_heads: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__(hidden_size, intermediate_size, dropout)
        known = (*(name for name in REDUCTIONS if "norm" not in name), "attention")
        unknown = [name for name in aggregators if name not in known]
        if unknown or not aggregators or isinstance(aggregators, str):
            raise ValueError(f"aggregators must be some of {', '.join(known)}, got {aggregators!r}")
        self.aggregators = tuple(aggregators)
        if hidden_size is None or intermediate_size is None or num_heads is None:
            return  # for_layer makes it anew, with the sizes of a block
        width = self.takes_apart(intermediate_size, num_heads)
        self.eps = nn.Parameter(torch.zeros(num_heads))
        self.alpha = nn.Parameter(torch.ones(num_heads)) if "sum" in self.aggregators else None
        self.attention_q: HeadLinear | None = None
        self.attention_k: HeadLinear | None = None
        if "attention" in self.aggregators:
            self.attention_q = HeadLinear(num_heads, width, width)
            self.attention_k = HeadLinear(num_heads, width, width)
        self.combine1 = nn.Linear((1 + len(self.aggregators)) * width, width, bias=False)
        self.combine2 = nn.Linear(width, width, bias=False)

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.eps)
        if self.alpha is not None:
            nn.init.ones_(self.alpha)

    forward = FeedForward.forward

    def on_graph(self, x: Tensor, edges: EdgeMessages) -> Tensor:
        own = of_heads(self.hidden(x), edges.heads)
        reduced = self.reduced(own, edges.of_all_senders(own), edges)
        if self.alpha is not None:
            reduced["sum"] = self.alpha.view(-1, 1, 1) * reduced["sum"]
        parts = [(1 + self.eps).view(-1, 1, 1) * own, *(reduced[n] for n in self.aggregators)]
        z = self.combine2(F.silu(self.combine1(torch.cat(parts, -1).to(own.dtype))))
        return self.finished(together(z))

    def reduced(self, own: Tensor, senders: Tensor, edges: EdgeMessages) -> dict[str, Tensor]:
        """Each aggregator's result ``[B, H, N, d]``."""
        names = tuple(name for name in self.aggregators if name != "attention")
        found = edges.reductions(senders, names) if names else {}
        if self.attention_q is not None and self.attention_k is not None:
            q, k = self.attention_q(own), self.attention_k(senders)
            scores = edges.pairs.dot(q, k) * own.shape[-1] ** -0.5
            prior = (edges.graph.weight.clamp(min=0) + LEAST).log()
            weight = edges.pairs.softmax(scores.to(prior.dtype) + prior)
            found["attention"] = edges.weighing(weight).reduce(senders)
        return found
