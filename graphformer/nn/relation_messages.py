"""Messages over the edges that data have before any attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphformer.attention.relations import Links, Relation, TypedEdges
from graphformer.errors import whole


class RelationMessages(nn.Module):
    r"""What a layer's heads get over its relations, beside their graphs.

    .. math::
        y^h_i \mathrel{+}= \sum_R \sum_{c} \theta^h_{R,c} \odot
        \operatorname{sum\ or\ mean}_{j \in R_c(i)} x^h_j

    with :math:`x^h_j` what node :math:`j` sends in head :math:`h`, :math:`y^h_i` what the head's
    operator made for :math:`i`, and a weight for each channel of each set of edges that starts at
    0: a fresh layer is the layer without relations.

    Args:
        relations: checked ones.
        num_heads, dim: heads, and the width of one.

    Source: R-GCN with diagonal weights (arXiv 1703.06103); Canon layers (Allen-Zhu 2025).
    """

    def __init__(self, relations: Sequence[Relation], num_heads: int, dim: int) -> None:
        super().__init__()
        self.relations = tuple(relations)
        self.num_heads, self.dim = whole("num_heads", num_heads), whole("dim", dim)
        channels = sum(one.channels for one in relations)
        # [.., 1, width] is a vector for each set of edges, which optimizers do not decay
        self.weight = nn.Parameter(torch.zeros(channels, 1, num_heads * dim))

    @property
    def reads_edge_attr(self) -> bool:
        return any("edge_attr" in one.attributes for one in self.relations)

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def reset_parameters(self) -> None:
        self.reset_own_parameters()

    def of_head(self) -> Tensor:
        """The weights by head, ``[channels, H, d]``."""
        return self.weight.view(-1, self.num_heads, self.dim)

    def forward(self, x: Tensor, links: Sequence[Links]) -> Tensor:
        """The sum of all messages ``[B, H, N, d]``, from what the tokens send, ``[B, H or Hkv, Nk,
        d]``.
        """
        groups = self.num_heads // x.shape[1]
        total: Tensor | None = None
        for weight, link in zip(self.of_head(), links, strict=True):
            found = link.messages(x)
            if groups > 1:
                found = found.repeat_interleave(groups, dim=1)
            found = found * weight.unsqueeze(1).to(found.dtype)
            total = found if total is None else total + found
        assert total is not None  # a layer without relations has none of these
        return total

    def on_edges(self, x: Tensor, typed: Sequence[TypedEdges], num_receivers: int) -> Tensor:
        """The same on a graph, ``[1, H, N, d]``, from what nodes send, ``[1, H, senders, d]``."""
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision cannot add up
        rows = x.squeeze(0).transpose(0, 1).flatten(1).to(exact)
        total = rows.new_zeros(num_receivers, rows.shape[1])
        own = self.weight.squeeze(1).to(exact).split([one.channels for one in self.relations])
        for relation, edges, weight in zip(self.relations, typed, own, strict=True):
            if relation.averages:
                edges = edges.averaged(relation.channels, num_receivers)
            message = rows.index_select(0, edges.senders) * weight.index_select(0, edges.channel)
            if edges.weight is not None:
                message = message * edges.weight.to(exact).unsqueeze(-1)
            total = total.index_add(0, edges.receivers, message)
        return total.to(x.dtype).unflatten(1, (self.num_heads, self.dim)).transpose(0, 1)[None]

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.relations))
