"""Heads in pairs, each less what its partner attends to."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import strict_flags


class PairedDifference(nn.Module, Update, name="paired_difference"):
    r"""``out_h <- out_h - sigmoid(W x + b)_h out_p`` with p the partner of h: heads 0 and 1, 2 and
    3, and so on.

    Where partners share keys and values (``num_kv_heads`` half of ``num_heads``) this is
    differential attention in its second form,
    :math:`(\mathrm{softmax}(s^1) - \lambda_i\, \mathrm{softmax}(s^2))\, v` with
    :math:`\lambda_i` of the receiver and no norm afterwards, and it runs on torch's own kernel.
    There the second head of a pair has no output; here it has the difference the other way round,
    so the width stays.

    W starts at 0 and b at -4, where almost nothing is taken away.

    Args:
        hidden_size, num_heads: width of the layer's input and heads, an even number; None: those of
            the layer.
        maps: whether the layer's linear map over all heads follows.
    """

    @strict_flags
    def __init__(
        self, hidden_size: int | None = None, num_heads: int | None = None, *, maps: bool = False
    ) -> None:
        super().__init__()
        self.maps = maps
        if hidden_size is None or num_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        if num_heads % 2:
            raise ValueError(
                f"update='paired_difference' has heads in pairs, and num_heads is {num_heads}: "
                "give an even number"
            )
        self.linear = nn.Linear(hidden_size, num_heads)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -4.0)

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        partner = out.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
        amount = F.sigmoid(self.linear(hidden_states)).transpose(1, 2).unsqueeze(-1)
        return out - amount.to(out.dtype) * partner
