"""SINC-GCN: a message that depends on receiver, sender and the receiver's neighbourhood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator
from graphformer.errors import whole


class SincOperator(Operator, name="sinc"):
    r"""SIR-GCN (arXiv 2403.13781), with weights of attention:

    .. math::
        \mathrm{out}_i = \sum_{(j \to i)} w_{ij}\, W_R\,
        \mathrm{act}\Big(W_Q x_i + W_K x_j + \sum_{(k \to i)} w_{ik} W_N x_k\Big)

    for each head with maps of its own. The inner sum is a reduction, and :math:`W_R` is linear, so
    it is applied after the sum: cost ``O(E d + n d^2)``, with ``[E, d]`` numbers for the messages.

    Args:
        num_heads, dim: heads and the width of one; None: those of the layer.
    """

    def __init__(self, num_heads: int | None = None, dim: int | None = None) -> None:
        super().__init__()
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        whole("num_heads", num_heads)
        whole("dim", dim)
        self.maps = nn.Parameter(torch.empty(4, num_heads, dim, dim))
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        bound = self.maps.shape[-1] ** -0.5
        nn.init.uniform_(self.maps, -bound, bound)
        nn.init.zeros_(self.bias)

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        of_receiver, of_sender, of_neighbours, outer = self.maps
        at_receiver = own @ of_receiver + edges.reduce(x @ of_neighbours) + self.bias
        hidden = edges.at_receivers(at_receiver) + edges.at_senders(x @ of_sender)
        return edges.sum(edges.weight.to(x.dtype) * F.silu(hidden)) @ outer
