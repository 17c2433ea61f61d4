"""One query a head, the same for every token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphformer.attention.scores.own_maps import OwnMaps
from graphformer.errors import whole


class LearnedQuery(nn.Module, OwnMaps, name="learned_query"):
    r"""Aaren's score (arXiv 2405.13956, section 3): ``s_hij = <u_h, W_k x_j>_h / sqrt(d)``, which
    depends on the sender alone.

    A causal softmax of it is a running sum, so all prefixes together cost about what one row does:
    without a cut and with sums alone that is what runs
    (:mod:`graphformer.attention.executors.scan`). Elsewhere it is a score like others, with their
    executors and graphs. Queries that a call brings are not read.

    Args:
        hidden_size, num_heads, kv_size, dim, sender_size: width of the receivers' input, heads,
            widths of all key heads and of one, and of the senders' input; None: the layer's.
    """

    def __init__(
        self,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        kv_size: int | None = None,
        dim: int | None = None,
        *,
        sender_size: int | None = None,
    ) -> None:
        super().__init__()
        if hidden_size is None or num_heads is None or kv_size is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.query = nn.Parameter(torch.empty(whole("num_heads", num_heads), dim))
        self.key = nn.Linear(sender_size or hidden_size, kv_size, bias=False)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.query)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        # Not turned by positions: a query that is nowhere has no place to be turned from.
        keys = self.key(senders).unflatten(-1, (-1, self.query.shape[1])).transpose(1, 2)
        queries = self.query[None, :, None].expand(len(keys), -1, receivers.shape[1], -1)
        return queries.to(keys.dtype), keys

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if q.shape[1] != len(self.query):
            raise ValueError(
                f"score='learned_query' has {len(self.query)} queries, and there are {q.shape[1]} "
                "heads: give it num_heads, or None for the layer's"
            )
        return super().prepare(self.query[None, :, None].expand_as(q), k)

    def of_senders(self, q: Tensor, k: Tensor) -> Tensor:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return (k @ q[:, :, :1].mT).squeeze(-1)
