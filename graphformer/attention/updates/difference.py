"""Heads in pairs, less what their partners attend to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import strict_flags


class PairedDifference(nn.Module, Update, name="paired_difference"):
    r"""``out_h <- out_h - sigmoid(W x + b)_h out_p`` with p the partner of h: heads 0 and 1, 2 and
    3, and so on.

    With ``both=False`` the heads of a pair become one output,

    .. math::
        \mathrm{out}_p = \mathrm{out}_{2p} - \lambda_p\, \mathrm{out}_{2p+1}, \qquad
        \lambda = \sigma(W x + b)

    and where partners share keys and values (``num_kv_heads`` at most half of ``num_heads``) this
    is differential attention in its second form, :math:`(\mathrm{softmax}(s^1) - \lambda_i\,
    \mathrm{softmax}(s^2))\, v` with :math:`\lambda_i` of the receiver and no norm afterwards, on
    torch's own kernel. Half as many outputs come out as there are heads, so with ``head_dim`` twice
    ``hidden_size / num_heads`` they are as wide as the stream: twice the queries, and nothing else,
    of a layer with the same keys and values.

    With ``both`` the second head has the difference the other way round, so the width stays.

    W starts at 0; b at -4, where almost nothing is taken away, or at 0 with ``both=False``.

    Args:
        hidden_size, num_heads: width of the layer's input and heads, an even number; None: those of
            the layer.
        both: whether each head of a pair keeps an output.
        maps: whether the layer's linear map over all heads follows.
    """

    @strict_flags
    def __init__(
        self,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        *,
        both: bool = True,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.both, self.maps = both, maps
        if hidden_size is None or num_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        if num_heads % 2:
            raise ValueError(
                f"update='paired_difference' has heads in pairs, and num_heads is {num_heads}: "
                "give an even number"
            )
        self.linear = nn.Linear(hidden_size, self.num_outputs(num_heads))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -4.0 if self.both else 0.0)

    def num_outputs(self, num_heads: int) -> int:
        return num_heads if self.both else num_heads // 2

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        amount = F.sigmoid(self.linear(hidden_states)).transpose(1, 2).unsqueeze(-1).to(out.dtype)
        first, second = out.unflatten(1, (-1, 2)).unbind(2)
        if not self.both:
            return first - amount * second
        return out - amount * torch.stack((second, first), 2).flatten(1, 2)
