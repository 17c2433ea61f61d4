"""What the first layer sends, mixed into what a later layer sends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.features.base import Features
from graphformer.attention.slot import check_slot
from graphformer.errors import number, strict_flags


class ValueResidual(nn.Module, Features, name="value_residual"):
    r"""``x_j <- x_j + l (x_j^(first) - x_j)``: what a node sends leans on what it sends in the
    first layer (ResFormer with trained weights, arXiv 2410.17897, section 4).

    ``l`` is trained, one number a layer, or one for each head that sends. It is not bounded. In a
    model the first layer sends what ``inner`` says, and is not told of anything. A layer by itself
    takes ``first=``, which another one has returned with ``output_features=True``.

    Only the same token is read, so the laws of texts hold, and a cache keeps what is sent after
    the mixing: nothing more than without.

    Args:
        inner: the features before the mixing: ``"projection"`` (values), ``"slice"``, or others.
        start: where ``l`` starts: 0.5 as published, 0 as the model without.
        per_head: a trained number for each head that sends.
        num_heads, num_kv_heads: None: the layer's.
    """

    reads_first = True

    @strict_flags
    def __init__(
        self,
        inner: Any = "projection",
        start: float = 0.5,
        *,
        per_head: bool = False,
        num_heads: int | None = None,
        num_kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.start, self.per_head = float(number("start", start)), per_head
        made = check_slot("features", Features, inner)
        if made.reads_first:
            raise ValueError(
                f"inner={made.name!r} reads what the first layer sends, as this one does: give the "
                "features before the mixing, inner='projection' or inner='slice'"
            )
        self.__dict__["_given"]["inner"] = made  # written down as a value, with the layer's sizes
        self.inner, self.projects = made, made.projects
        self.changes, self.reads_hidden = made.changes, made.reads_hidden
        if num_heads is None or num_kv_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        senders = num_kv_heads if made.projects else num_heads
        self.mix = nn.Parameter(torch.empty(senders if per_head else 1))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.mix, self.start)

    def of_nodes(self, x: Tensor, hidden_states: Tensor) -> Tensor:
        return self.inner.of_nodes(x, hidden_states)

    def with_first(self, x: Tensor, first: Tensor) -> Tensor:
        return x + self.mix.to(x.dtype).view(-1, 1, 1) * (first.to(x.dtype) - x)

    def in_first_layer(self) -> Features:
        return self.inner
