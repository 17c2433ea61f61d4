"""Softmax attention with a gate that forgets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import number, whole


class Forgetting(nn.Module, Score, name="forgetting"):
    r"""The forgetting transformer (arXiv 2503.02130, eq. 4 and 5):

    .. math::
        s_{ij} = \frac{\langle q_i, k_j \rangle}{\sqrt d} + F_i - F_j, \qquad
        F_t = \sum_{l \le t} \log \sigma(f_l), \qquad f_l = w_h x_l + b_h.

    :math:`F_i - F_j` falls apart into two more channels of queries and keys, so a score is a plain
    dot product and flash attention runs. A key keeps :math:`\log \sigma(f)` as one more channel,
    also in a cache, and the sums are made over all keys of a call. Padding on the left adds the
    same to all that follows it, which cancels. In float32 a score is off by some 1e-7 of ``F``,
    which reaches the number of tokens where all is forgotten at once.

    Gates are of key heads. It is for causal rows of tokens; a layer on edges has no order to sum
    along.

    Args:
        hidden_size, num_kv_heads: width of the layer's input and key heads; None: those of the
            layer.
        bias: where each ``b_h`` starts: 5 forgets 0.7 % a token.
    """

    ordered = True

    def __init__(
        self,
        hidden_size: int | None = None,
        num_kv_heads: int | None = None,
        bias: float = 5.0,
    ) -> None:
        super().__init__()
        self.initial_bias = float(number("bias", bias))
        if hidden_size is None or num_kv_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.gate = nn.Linear(
            whole("hidden_size", hidden_size), whole("num_kv_heads", num_kv_heads)
        )
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, self.initial_bias)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        gates = F.logsigmoid(self.gate(senders)).mT.unsqueeze(-1)  # [B, Hkv, N, 1]
        return F.pad(q, (0, 1)), torch.cat((k, gates.to(k.dtype)), -1)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, H, Nq, d + 2]`` and ``[B, Hkv, Nk, d + 2]``: the last channels are (F_i, 1) and
        (1, -F_j).
        """
        if q.shape[2] > k.shape[2]:
            raise ValueError(
                f"score='forgetting' needs at least as many keys as queries, got {q.shape[2]} "
                f"queries and {k.shape[2]} keys: a query stands where its own key does"
            )
        q, k = super().prepare(q, k)
        total = k[..., -1:].cumsum(2)
        own = total[:, :, total.shape[2] - q.shape[2] :]
        own = own.repeat_interleave(q.shape[1] // own.shape[1], dim=1)
        one = torch.ones_like
        scale = (q.shape[-1] - 1) ** -0.5
        return (
            torch.cat((q[..., :-1] * scale, own, one(own)), -1),
            torch.cat((k[..., :-1], one(total), -total), -1),
        )

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        return pairs.dot(q, k)

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]]:
        return [(1.0, q, k)]
