"""Slot 2, score: a logit for each candidate pair, from which the normalizer makes a weight.

A score is asked for weights and is handed the normalizer, because one of them takes the difference
of two normalized maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.normalizers import Normalizer
from graphformer.attention.sampled import sampled_scores
from graphformer.backends.sums import Ends
from graphformer.errors import number
from graphformer.graph import AttentionGraph


class Score:
    """Base of the scores; one of your own overrides these methods.

    ``q`` and ``k`` are ``[B, H, Nq, d]`` and ``[B, Hkv, Nk, d]``, and after :meth:`prepare`
    whatever the score needs for a receiver and for a sender: ``[B, H, Nq, *]`` and
    ``[B, Hkv, Nk, *]``.
    """

    cost: int = 1
    """Numbers that a pair of sender and receiver needs, all heads together, where that is more than
    one a head.
    """

    def heads(self, q: Tensor) -> int:
        """The number of heads: lanes of each sequence."""
        return q.shape[1]

    def of_sequences(self, part: slice) -> Score:
        """The score of a part of the batch; for :meth:`weights`, where it holds tensors with an
        axis of sequences.
        """
        return self

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on pairs, done once; half precision becomes float32."""
        raise NotImplementedError

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, normalize: Normalizer) -> Tensor:
        """Prepared queries of whole rows and keys, and a mask that broadcasts, to weights
        ``[B, H, R, N]``; the naive twin.
        """
        raise NotImplementedError

    def edge_weights(
        self, q: Tensor, k: Tensor, graph: AttentionGraph, normalize: Normalizer
    ) -> Tensor:
        """The same on the candidate edges of a graph, ``[E]``."""
        raise NotImplementedError


def dots(q: Tensor, k: Tensor) -> Tensor:
    """``[B, H, R, d]`` and ``[B, Hkv, N, d]`` to ``[B, H, R, N]``; each key head serves a group of
    query heads.
    """
    batch, heads, rows, dim = q.shape
    kv_heads, num_senders = k.shape[1], k.shape[2]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads * rows, dim)
    return (grouped @ k.transpose(-1, -2)).view(batch, heads, rows, num_senders)


def factors(
    scale: float | None, sharpening: Tensor | float, dim: int, dtype: torch.dtype
) -> Tensor | float:
    """Scale times sharpening."""
    return (1.0 / math.sqrt(dim) if scale is None else scale) * (
        sharpening.to(dtype) if isinstance(sharpening, Tensor) else sharpening
    )


def per_head(
    name: str, value: Tensor | float, shape: tuple[int, ...], rows: bool = False
) -> Tensor | float:
    """A factor that broadcasts over the pairs of a head: one number a head becomes ``[H, 1, 1]``.

    Args:
        shape: of the queries, ``[B, H, Nq, d]``.
        rows: whether it may differ from row to row.

    Raises:
        ValueError: a tensor of another shape, which would be laid along senders or channels.
    """
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value
    batch, heads, length = shape[0], shape[1], shape[2] if rows else 1
    if value.shape == (heads,):
        return value.view(heads, 1, 1)
    wanted = (batch, heads, length, 1)
    if value.ndim > 4 or any(
        one not in (1, most)
        for one, most in zip(reversed(value.shape), reversed(wanted), strict=False)
    ):
        raise ValueError(
            f"{name} must be a number, one for each of the {heads} heads, or a tensor that "
            f"broadcasts to {list(wanted)} "
            f"({'batch, heads, queries, 1' if rows else 'batch, heads, 1, 1'}), got shape "
            f"{list(value.shape)}"
        )
    return value


def as_tensor(value: Tensor | float | Sequence[float]) -> Tensor | float:
    """A sequence of numbers as a tensor."""
    return (
        torch.tensor(value, dtype=torch.get_default_dtype())
        if isinstance(value, Sequence)
        else value
    )


def check_factors(scale: float | None, sharpening: Tensor | float) -> None:
    """ValueError or TypeError for numbers that would make every score NaN or infinite."""
    if scale is not None:
        number("scale", scale)
    if not isinstance(sharpening, Tensor):
        number("sharpening", sharpening)


@dataclass(frozen=True, eq=False)
class ScaledDotProduct(Score):
    """``s_ij = sharpening * scale * <q_i, k_j>`` (arXiv 2501.02393, section 2.1: a trainable
    sharpening before the softmax).

    Both factors go into the queries, before any masking, so that a masked pair stays masked
    whatever the sharpening. Half precision is scored in float32.

    Attributes:
        scale: ``1 / sqrt(d)`` unless given.
        sharpening: a number (a trainable scalar), one a head, or a tensor that broadcasts to
            ``[B, H, Nq, 1]``.
    """

    scale: float | None = None
    sharpening: Tensor | float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharpening", as_tensor(self.sharpening))
        check_factors(self.scale, self.sharpening)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the factors into q: afterwards a score is a plain dot product."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        sharpening = per_head("sharpening", self.sharpening, q.shape, rows=True)
        return q.to(dtype) * factors(self.scale, sharpening, q.shape[-1], dtype), k.to(dtype)

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, normalize: Normalizer) -> Tensor:
        return normalize.rows(dots(q, k), allowed)

    def edge_weights(
        self, q: Tensor, k: Tensor, graph: AttentionGraph, normalize: Normalizer
    ) -> Tensor:
        return normalize.edges(
            sampled_scores(q, k, graph), graph.receivers, graph.num_lanes * graph.num_receivers
        )


@dataclass(frozen=True, eq=False)
class Differential(Score):
    r"""``w_ij = normalize(s^1)_ij - \lambda normalize(s^2)_ij``, two dot products with their own
    queries and keys (arXiv 2410.05258).

    The first half of the channels of q and k makes :math:`s^1`, the second half :math:`s^2`.
    Weights may be negative.

    Attributes:
        amount: lambda, a number, one a head, or a tensor that broadcasts to ``[B, H, 1, 1]``.
        scale: ``1 / sqrt(d / 2)`` unless given.
        sharpening: as in :class:`ScaledDotProduct`, of both.
    """

    amount: Tensor | float = 0.5
    scale: float | None = None
    sharpening: Tensor | float = 1.0

    def __post_init__(self) -> None:
        for name in ("amount", "sharpening"):
            object.__setattr__(self, name, as_tensor(getattr(self, name)))
        check_factors(self.scale, self.sharpening)
        if not isinstance(self.amount, Tensor):
            number("amount", self.amount)

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        per_head("amount", self.amount, q.shape)
        if q.shape[-1] % 2:
            raise ValueError(
                "differential attention halves the channels of q and k, so there must be an even "
                f"number, got {q.shape[-1]}"
            )
        dtype = torch.promote_types(q.dtype, torch.float32)
        sharpening = per_head("sharpening", self.sharpening, q.shape, rows=True)
        return q.to(dtype) * factors(self.scale, sharpening, q.shape[-1] // 2, dtype), k.to(dtype)

    def of_sequences(self, part: slice) -> Score:
        if isinstance(self.amount, Tensor) and self.amount.ndim == 4 and len(self.amount) > 1:
            return replace(self, amount=self.amount[part])
        return self

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, normalize: Normalizer) -> Tensor:
        first, second = (
            normalize.rows(dots(*half), allowed)
            for half in zip(q.chunk(2, -1), k.chunk(2, -1), strict=True)
        )
        return first - per_head("amount", self.amount, q.shape) * second

    def edge_weights(
        self, q: Tensor, k: Tensor, graph: AttentionGraph, normalize: Normalizer
    ) -> Tensor:
        halves = zip(q.chunk(2, -1), k.chunk(2, -1), strict=True)
        num_receivers = graph.num_lanes * graph.num_receivers
        first, second = (
            normalize.edges(sampled_scores(*half, graph), graph.receivers, num_receivers)
            for half in halves
        )
        amount = per_head("amount", self.amount, q.shape)
        if isinstance(amount, Tensor):
            one = amount.numel() == 1  # of any shape
            amount = (
                amount.reshape(())
                if one
                else amount.expand(*graph.batch_shape, 1, 1).flatten()[graph.sender_lane]
            )
        return first - amount * second


@dataclass(frozen=True, eq=False)
class Pairwise(Score):
    r"""``s_hij = \langle u_h, \mathrm{act}(a_i + b_j) \rangle + c_h``: a small network judges each
    pair.

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

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, normalize: Normalizer) -> Tensor:
        pairs = q[:, 0].unsqueeze(2) + k[:, 0].unsqueeze(1)  # [B, R, N, width]
        hidden = getattr(F, self.activation)(pairs)
        scores = F.linear(hidden, self.weight.to(pairs.dtype), self.bias.to(pairs.dtype))
        return normalize.rows(scores.permute(0, 3, 1, 2), allowed)

    def edge_weights(
        self, q: Tensor, k: Tensor, graph: AttentionGraph, normalize: Normalizer
    ) -> Tensor:
        heads, num_receivers = self.heads(q), graph.num_lanes * graph.num_receivers
        pairs = q.flatten(0, 2)[graph.receivers] + k.flatten(0, 2)[Ends.of(graph, heads).rows]
        head = graph.sender_lane % heads
        hidden = getattr(F, self.activation)(pairs)
        scores = (hidden * self.weight.to(pairs.dtype)[head]).sum(-1) + self.bias.to(pairs.dtype)[
            head
        ]
        return normalize.edges(scores, graph.receivers, num_receivers)


def choose_score(score: Score | None, scale: float | None, sharpening: Tensor | float) -> Score:
    """The score given, or the scaled dot product; not half of each."""
    if score is None:
        return ScaledDotProduct(scale, sharpening)
    if not isinstance(score, Score):
        raise TypeError(
            "score must be a Score such as gf.attention.Differential(...), got "
            f"{type(score).__name__}"
        )
    if scale is not None or isinstance(sharpening, Tensor) or sharpening != 1.0:
        raise ValueError(
            "scale and sharpening belong to the dot product: give them to the score itself, "
            f"{type(score).__name__}(...)"
        )
    return score
