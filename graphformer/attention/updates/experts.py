"""Groups of heads as experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import strict_flags, whole


class Experts(nn.Module, Update, name="experts"):
    r"""A mixture of attention experts (BAM, arXiv 2408.08274): the heads are cut into E groups, an
    expert each, and every token decides how much it takes of each,

    .. math::
        \mathrm{out}_h \leftarrow E\, g_{e(h)}(x)\, \mathrm{out}_h, \qquad
        g(x) = \mathrm{softmax}(W x)

    With ``top=k`` the k largest gates stay, not divided anew by their sum, and the others are 0
    (k = 1 is a switch). W starts at 0, where without ``top`` nothing changes. An output map over
    all heads (``maps``) then adds up a map for each expert. All heads are computed: what is saved
    is not time but what interferes.

    Args:
        experts: E, a divisor of the number of heads.
        top: how many experts a token takes; None: all.
        hidden_size, num_heads, num_kv_heads: width of the layer's input, heads and key heads; None:
            those of the layer.
        shared: whether every key head serves the heads of all experts, which then have the same
            keys and values: the heads of one key head are cut into E groups. Else the heads of the
            layer are.
        maps: whether the layer's linear map over all heads follows.
    """

    @strict_flags
    def __init__(
        self,
        experts: int = 2,
        top: int | None = None,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        *,
        shared: bool = False,
        num_kv_heads: int | None = None,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.experts, self.maps = whole("experts", experts), maps
        self.groups = 1  # of heads, each cut into the experts
        self.top = None if top is None else whole("top", top)
        if top is not None and top > experts:
            raise ValueError(f"top={top}: there are {experts} experts")
        if hidden_size is None or num_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        if num_heads % experts:
            raise ValueError(
                f"experts={experts} does not divide num_heads={num_heads}: every expert has as "
                "many heads"
            )
        if shared and num_kv_heads is not None:
            self.groups = whole("num_kv_heads", num_kv_heads)
            if num_heads % (experts * num_kv_heads):
                raise ValueError(
                    f"experts={experts} that share num_kv_heads={num_kv_heads} key heads: "
                    f"num_heads={num_heads} is no multiple of {experts * num_kv_heads}"
                )
        self.linear = nn.Linear(hidden_size, experts)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        gates = self.linear(hidden_states).softmax(-1)  # [B, N, E]
        if self.top is not None:
            best = gates.topk(self.top, dim=-1).indices
            gates = gates * torch.zeros_like(gates).scatter(-1, best, 1.0)
        heads = out.shape[1] // (self.experts * self.groups)
        gates = (self.experts * gates).repeat_interleave(heads, dim=-1)
        gates = gates.repeat(*[1] * (gates.ndim - 1), self.groups)
        return out * gates.transpose(1, 2).unsqueeze(-1).to(out.dtype)
