"""A query that is more than a linear map of its token."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.scores.own_maps import OwnMaps
from graphformer.errors import whole


class QueryNetwork(nn.Module, OwnMaps, name="query_network"):
    r"""``s_ij = <q_i, k_j> / sqrt(d)`` with ``q = x + W_2 silu(W_1 x)`` and ``k = W_k x``.

    With ``width`` half of the layer's, as it is unless given, it has as many parameters as a layer
    with the usual maps. Queries start as ``x`` itself, for ``W_2`` starts at 0.

    Args:
        width: hidden units.
        hidden_size, kv_size, query_size, sender_size: widths of the receivers' input, of all keys
            and queries, of the senders' input; None: those of the layer.

    Raises:
        ValueError: the heads together are not as wide as the input.
    """

    def __init__(
        self,
        hidden_size: int | None = None,
        kv_size: int | None = None,
        width: int | None = None,
        *,
        query_size: int | None = None,
        sender_size: int | None = None,
    ) -> None:
        super().__init__()
        if width is not None:
            whole("width", width)
        if hidden_size is None or kv_size is None:
            return  # for_layer makes it anew, with the layer's sizes
        width = width or max(hidden_size // 2, 1)
        self.inner = nn.Linear(hidden_size, width, bias=False)
        self.outer = nn.Linear(width, query_size or hidden_size, bias=False)
        if query_size not in (None, hidden_size):
            raise ValueError(
                f"a query is its token and more, so the heads together must be as wide as the "
                f"layer's input: they have {query_size}, the input {hidden_size}"
            )
        self.key = nn.Linear(sender_size or hidden_size, kv_size, bias=False)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.outer.weight)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        queries = receivers + self.outer(F.silu(self.inner(receivers)))
        return split(queries), split(self.key(senders))
