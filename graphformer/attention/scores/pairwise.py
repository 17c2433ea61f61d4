"""A small network that judges each pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.errors import whole


@dataclass(frozen=True, eq=False)
class Pairwise(Score):
    r"""A small network judges each pair:
    :math:`s_{hij} = \langle u_h, \mathrm{act}(a_i + b_j) \rangle + c_h`.

    A network on two concatenated vectors, ``MLP([x_i || x_j])``, is of this form: its first layer
    falls apart into :math:`a_i = W_a x_i + b` and :math:`b_j = W_b x_j`, so nothing of the size of
    a pair's two vectors is ever made.

    ``q`` and ``k`` hold :math:`a` and :math:`b`: ``[B, 1, Nq, width]`` and ``[B, 1, Nk, width]``,
    the same for every head.

    Attributes:
        weight: :math:`u`, ``[H, width]``.
        bias: :math:`c`, ``[H]``.
        activation: the name of a function of ``torch.nn.functional``.
    """

    weight: Tensor
    bias: Tensor
    activation: str = "silu"
    projects = False

    def __post_init__(self) -> None:
        if not callable(getattr(F, self.activation, None)):
            raise ValueError(
                f"activation must name a function of torch.nn.functional, got {self.activation!r}"
            )

    @property
    def cost(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    def heads(self, q: Tensor) -> int:
        return self.weight.shape[0]

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if q.shape[1] != 1 or k.shape[1] != 1 or q.shape[-1] != self.weight.shape[-1]:
            raise ValueError(
                f"a pairwise score takes q and k of one head and width {self.weight.shape[-1]} "
                f"(its weights are {list(self.weight.shape)}), got {list(q.shape)} and "
                f"{list(k.shape)}"
            )
        dtype = torch.promote_types(q.dtype, torch.float32)
        return q.to(dtype).expand(-1, self.heads(q), -1, -1), k.to(dtype)

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        # The same for every head, so it is made once for all of them in a block.
        both = pairs.at_receivers(q[:, :1]) + pairs.at_senders(k)
        hidden = getattr(F, self.activation)(both)
        weight, bias = self.weight.to(both.dtype), self.bias.to(both.dtype)
        if isinstance(pairs, Block):
            return F.linear(hidden.squeeze(1), weight, bias).permute(0, 3, 1, 2)
        return (hidden * pairs.of_head(weight)).sum(-1) + pairs.of_head(bias)


class PairwiseScoring(nn.Module, Score, name="pairwise"):
    r"""``s_hij = MLP([x_i || x_j])_h``: a network with one hidden layer (SiLU) scores each pair,
    for all heads at once.

    Its first layer is kept as two maps, ``receiver`` and ``sender`` (see :class:`Pairwise`). It
    knows no positions: a causal order comes from the mask alone.

    Args:
        hidden_size: width of the receivers' input. sender_size: of the senders' (unless given, the
            same).
        width: hidden units; ``hidden_size`` unless given.
    """

    projects = False
    attribute = "pairwise"

    def __init__(
        self,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        width: int | None = None,
        *,
        sender_size: int | None = None,
    ) -> None:
        super().__init__()
        if width is not None:
            whole("score_width", width)
        if hidden_size is None or num_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        width = hidden_size if width is None else width
        sizes = {"hidden_size": hidden_size, "num_heads": num_heads, "sender_size": sender_size}
        for name, value in sizes.items():
            whole(name, hidden_size if value is None else value)
        self.receiver = nn.Linear(hidden_size, width)
        self.sender = nn.Linear(sender_size or hidden_size, width, bias=False)
        self.out = nn.Linear(width, num_heads)

    def reset_parameters(self) -> None:
        for module in (self.receiver, self.sender, self.out):
            module.reset_parameters()

    def forward(self, receivers: Tensor, senders: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, N, hidden_size]`` to what stands for queries and keys, ``[B, 1, N, width]``
        each.
        """
        senders = receivers if senders is None else senders
        return self.receiver(receivers).unsqueeze(1), self.sender(senders).unsqueeze(1)

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        return self(receivers, senders)

    def score(self) -> Pairwise:
        return Pairwise(self.out.weight, self.out.bias)

    def of_call(self, sharpening: Tensor | None = None, previous: Any = None) -> Score:
        return self.score()
