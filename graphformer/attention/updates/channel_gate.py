"""A gate for each channel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import strict_flags


class ChannelGate(nn.Module, Update, name="channel_gate"):
    r"""``out <- 2 sigma(W c) out + W' c``: a context vector gates each channel of the heads (the
    sentence attention block; with the shift ``W' c`` it is FiLM, arXiv 1709.07871).

    The context is the node's own input, so a causal layer stays causal; the elementwise gate after
    attention of arXiv 2505.06708 is this one. Both maps start at 0, where nothing changes.

    Args:
        shift: whether ``W' c`` is added.
        hidden_size, query_size: widths of the layer's input and of its heads together; None: those
            of the layer.
        maps: whether the layer's linear map over all heads follows.
    """

    @strict_flags
    def __init__(
        self,
        shift: bool = False,
        hidden_size: int | None = None,
        query_size: int | None = None,
        *,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.maps = maps
        if hidden_size is None:
            return  # for_layer makes it anew, with the layer's sizes
        width = query_size or hidden_size
        self.gate = nn.Linear(hidden_size, width)
        self.shift = nn.Linear(hidden_size, width) if shift else None
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        for one in (self.gate, self.shift):
            if one is not None:
                nn.init.zeros_(one.weight)
                nn.init.zeros_(one.bias)

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (out.shape[1], -1)).transpose(1, 2).to(out.dtype)

        gated = out * split(2 * F.sigmoid(self.gate(hidden_states)))
        return gated if self.shift is None else gated + split(self.shift(hidden_states))
