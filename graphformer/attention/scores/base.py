"""Slot 2, score: a logit for each candidate pair, from which the normalizer makes a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import Slot
from graphformer.errors import number
from graphformer.graph import AttentionGraph


class Score(Slot, slot="score"):
    """Base of the scores; one of your own overrides :meth:`logits`, and where it has something to
    do once for all pairs :meth:`prepare`.

    Some scores normalize several *maps* of logits and combine their weights (differential
    attention): these override :meth:`maps` and :meth:`combine`.

    Attributes:
        cost: numbers that a pair needs while it is scored, all heads together, where that is more
            than one a head.
        projects: whether queries and keys are the layer's own projections (with their positions).
        scaled: whether the layer's trained sharpening goes into it (:meth:`sharpened`).
        biased: whether edge features and a refined graph may be added to its logits.
        previous: whether it reads the graph of the layer before (:meth:`of_call`).
        glorot_values: whether layers on edges draw their maps of values as PyG's GATConv does.
        reads_hidden: whether :meth:`of_hidden` looks at hidden states, whose width it must know,
            and which it takes dense. One of your own does, unless it says otherwise.
        ordered: whether it adds up along the row of tokens. A layer on edges has no such order, and
            refuses it.
        alone: whether it is not one map of the layer's own heads, so no other score can stand
            beside it in a :class:`~graphformer.attention.scores.PerHeadScore`. One of your own that
            has several maps (:meth:`maps`) or other heads (:meth:`heads`) is.
        attribute: under which name a layer holds it, where it has parameters.
    """

    cost: int = 1
    projects: bool = True
    scaled: bool = False
    biased: bool = True
    previous: bool = False
    glorot_values: bool = False
    reads_hidden: bool = False
    ordered: bool = False
    alone: bool = False
    attribute: ClassVar[str] = "score"
    said_of: ClassVar = {
        "prepare": ("in_half",),
        "logits": ("dots", "fading", "in_half", "of_senders"),
        "maps": ("dots", "fading", "in_half", "of_senders"),
        "combine": ("dots", "fading", "in_half", "of_senders"),
    }
    told_by: ClassVar = {"of_hidden": "reads_hidden", "maps": "alone", "heads": "alone"}

    def heads(self, q: Tensor) -> int:
        """The number of heads: lanes of each sequence."""
        return q.shape[1]

    def sharpened(self, sharpening: Tensor | float) -> Score:
        """The same with a further factor of the logits."""
        raise ValueError(f"{type(self).__name__} takes no sharpening: it has a scale of its own")

    def of_hidden(
        self,
        receivers: Tensor,
        senders: Tensor,
        q: Tensor,
        k: Tensor,
        split: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys, from a layer's hidden states ``[B, N, channels]`` and its own queries
        and keys.

        Args:
            q, k: ``[B, H, Nq, d]`` and ``[B, Hkv, Nk, d]``; where ``projects`` is False there are
                none.
            split: cuts ``[B, N, heads * d]`` into heads and turns them by their positions.
        """
        return q, k

    def of_call(
        self, sharpening: Tensor | None = None, previous: AttentionGraph | None = None
    ) -> Score:
        """The score for one call of a layer: with its trained sharpening, and from the graph of the
        layer before.
        """
        return self if sharpening is None else self.sharpened(sharpening)

    def candidates(self) -> AttentionGraph | None:
        """The pairs that it can score, where these are the edges of a graph; None: any."""
        return None

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on pairs, done once; half precision becomes float32."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        return q.to(dtype), k.to(dtype)

    def prepared(self) -> Score:
        """What remains to be done for pairs once :meth:`prepare` was called."""
        return self

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        """The logits of pairs, from prepared ``q`` ``[B, H, Nq, *]`` and ``k``
        ``[B, Hkv, Nk, *]``.
        """
        raise NotImplementedError

    def maps(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> tuple[Tensor, ...]:
        """The logits of each map; one unless it says otherwise."""
        return (self.logits(q, k, pairs),)

    def combine(self, weights: Sequence[Tensor], pairs: Block | Listed) -> Tensor:
        """The maps' weights, normalized, to the weights of the score."""
        return weights[0]

    def dots(self, q: Tensor, k: Tensor) -> list[tuple[Tensor | float, Tensor, Tensor]] | None:
        """The maps as plain dot products, where they are: the factor of its weights, queries and
        keys of each.

        This is what lets flash attention and the blocked softmax gradient run; ``None`` elsewhere.
        """
        return None

    def fading(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Queries, keys and ``log lambda`` of each head ``[H]`` (None: 0), at most 0, where the
        logits are ``lambda^|i - j| <q_i, k_j>``.

        This is what lets the linear executor run, under ``normalize="identity"``; ``None``
        elsewhere.
        """
        maps = self.dots(q, k)
        if maps is None or len(maps) != 1:
            return None
        factor, q, k = maps[0]
        return factor * q, k, None

    def of_senders(self, q: Tensor, k: Tensor) -> Tensor | None:
        """The logits of senders ``[B, H, Nk]``, where they depend on nothing else.

        This is what lets the linear executor run under a softmax; ``None`` elsewhere.
        """
        return None

    def in_half(
        self, q: Tensor, k: Tensor, precision: torch.dtype
    ) -> tuple[Tensor, Tensor, float] | None:
        """The single map as a kernel in half precision takes it: queries, keys and the factor of
        their dot products, from what :meth:`prepare` is given; ``None`` where that may not hold
        them.
        """
        return None


def factors(
    scale: float | None, sharpening: Tensor | float, dim: int, dtype: torch.dtype
) -> Tensor | float:
    """Scale times sharpening."""
    alpha = sharpening.to(dtype) if isinstance(sharpening, Tensor) else sharpening
    return (1.0 / math.sqrt(dim) if scale is None else scale) * alpha


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


def at_pairs(value: Tensor | float, pairs: Block | Listed) -> Tensor | float:
    """A factor as :func:`per_head` makes it, at each pair."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() == 1:
        return value.reshape(())
    return pairs.at_receivers(value.reshape((1,) * (4 - value.ndim) + value.shape)).squeeze(-1)


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


def times(score: Any, sharpening: Tensor | float) -> Any:
    """A score with a ``sharpening`` field, further sharpened."""
    if not isinstance(sharpening, Tensor) and sharpening == 1.0:
        return score
    own = score.sharpening
    made = replace(
        score,
        sharpening=sharpening if not isinstance(own, Tensor) and own == 1.0 else own * sharpening,
    )
    if "_sized" in score.__dict__:  # a factor changes nothing of that (sizes.require_sizes)
        made.__dict__["_sized"] = True
    return made
