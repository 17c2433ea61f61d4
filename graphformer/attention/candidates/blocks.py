"""Coarse-grained candidates: near tokens one by one, far ones as blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Pairs
from graphformer.attention.slot import children
from graphformer.errors import whole

ELSEWHERE = (
    "candidates={!r} add senders that are no tokens, which layers on a row of tokens make: give "
    "them to GINAttention(..., head=gf.Head(candidates=...)) or GraphformerConfig(head=...)"
)


class AddedRule(Rule):
    """Base of the rules that add senders to those of a layer on tokens."""

    def allow(self, pairs: Pairs) -> Tensor:
        raise ValueError(ELSEWHERE.format(self.name))

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        raise ValueError(ELSEWHERE.format(self.name))


class CoarseRule(AddedRule):
    r"""Base of the rules that add blocks of tokens to the senders.

    A block of level 1 holds consecutive tokens, one of level :math:`l` consecutive blocks of level
    :math:`l - 1`, of one text. With :math:`b_l(t)` the block of level :math:`l` that token
    :math:`t` lies in, and the whole text as level :math:`L + 1`, the senders of :math:`t` are

    .. math::
        \{j \le t : b_1(j) = b_1(t)\} \;\cup\; \bigcup_{l=1}^{L}
        \{c < b_l(t) : c \subset b_{l+1}(t)\}

    so each earlier token is there exactly once, alone or in a block that was finished before
    :math:`t`. A block sends the mean of its tokens' features, and its key is the mean of their
    keys. All of them stand in one row, in one graph: senders 0..N-1 are the tokens, the others the
    blocks, level by level.

    Args:
        sizes: of the blocks, finest first: the number of tokens, then of blocks of the level below.
            None: where blocks begin comes with each call (``block_ids``).
    """

    sizes: Sequence[int | None]

    def logits(self, x: Tensor) -> Tensor | None:
        """``[B, Hkv, N]``, of which the softmax over a block weighs its tokens; None: all alike."""
        return None


def checked(sizes: int | Sequence[int | None] | None) -> tuple[int | None, ...]:
    """The sizes as a tuple.

    Raises:
        ValueError: none at all, or one below 1. TypeError: no whole number.
    """
    found = (sizes,) if sizes is None or isinstance(sizes, int) else tuple(sizes)
    if not found:
        raise ValueError("sizes is empty: give the tokens of a block, Blocks(64)")
    return tuple(one if one is None else whole("sizes", one) for one in found)


@dataclass(frozen=True)
class Blocks(CoarseRule, name="blocks"):
    """See :class:`CoarseRule`: ``Blocks(64)``, ``Blocks((16, 8))`` for two levels. With blocks of
    about the square root of n tokens, n tokens have n sqrt(n) pairs.
    """

    sizes: int | Sequence[int | None] | None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", checked(self.sizes))


class WeighedBlocks(nn.Module, CoarseRule, name="weighed_blocks"):
    r"""As :class:`Blocks`, and the tokens of a block count by
    :math:`\mathrm{softmax}_{j \in c} \langle u_h, x_j \rangle` with a trained vector for each key
    head, which starts at 0: all alike. Of heads that share a key head, x is the mean.

    Args:
        num_kv_heads, dim: key heads and the width of one; None: those of the layer.
    """

    def __init__(
        self,
        sizes: int | Sequence[int | None] | None,
        num_kv_heads: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.sizes = checked(sizes)
        if num_kv_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.vector = nn.Parameter(torch.empty(num_kv_heads, dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.vector)

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}"

    def logits(self, x: Tensor) -> Tensor:
        shared = x.unflatten(1, (len(self.vector), -1)).mean(2)
        return (shared * self.vector.unsqueeze(1)).sum(-1)


def added_rules(value: object) -> Iterator[AddedRule]:
    """Those in a rule, each once."""
    if isinstance(value, AddedRule):
        yield value
    else:
        found = (one for part in children(value) for one in added_rules(part))
        yield from dict.fromkeys(found)


def coarse_rules(value: object) -> Iterator[CoarseRule]:
    """Those of blocks."""
    yield from (one for one in added_rules(value) if isinstance(one, CoarseRule))
