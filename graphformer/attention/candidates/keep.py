"""A mask of tokens or of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Keep(Rule, name="mask"):
    """A mask: ``keep`` is ``[B, Nk]`` (real senders, padding is 0) or ``[B or 1, H or 1, Nq, Nk]``;
    true or 1 may be attended to.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.ndim not in (2, 4):
            raise ValueError(
                "attention_mask must be [B, Nk] or [B, 1, Nq, Nk], got shape "
                f"{tuple(self.keep.shape)}"
            )
        if self.keep.is_floating_point() and self.keep.ndim == 4:
            # Not even one of zeros: an additive mask of zeros masks nothing, and read as booleans
            # it would mask everything.
            raise ValueError(
                "attention_mask [B, 1, Nq, Nk] must be boolean or integer, got floating point "
                "values; turn an additive mask into a boolean one with mask == 0"
            )
        # Whether the values fit is in the data, which torch.compile does not look at.
        unseen = self.keep.dtype == torch.bool or torch.compiler.is_compiling()
        if not unseen and not bool(((self.keep == 0) | (self.keep == 1)).all()):
            raise ValueError(
                "attention_mask must hold 1 (attend) and 0 (ignore) or booleans, but it holds "
                "other values; turn an additive mask into a boolean one with mask == 0, and give "
                "numbers of packed texts as candidates=Packed(segments)"
            )
        object.__setattr__(self, "keep", self.keep.bool())

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.keep.ndim == 2 or self.keep.shape[1] == 1

    def starts(self) -> Tensor | None:
        if self.keep.ndim == 4 or self.keep.shape[1] == 0:
            return None
        if not torch.compiler.is_compiling() and bool(self.keep[:, 0].all()):
            return None
        before = (self.keep.long().cumsum(-1) == 0).sum(-1, keepdim=True)
        return before.expand(self.keep.shape)

    def allow(self, pairs: Pairs) -> Tensor:
        if self.keep.ndim == 2:
            return self.keep[pairs.sequence, pairs.sender]
        batch, heads = self.keep.shape[:2]
        sequence = pairs.sequence if batch > 1 else torch.zeros_like(pairs.sequence)
        head = pairs.head if heads > 1 else torch.zeros_like(pairs.head)
        return self.keep[sequence, head, pairs.receiver, pairs.sender]

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        shape = tuple(self.keep.shape)
        if len(shape) == 2:
            fits = shape == (batch, num_senders)
        else:
            fits = (
                shape[0] in (1, batch)
                and shape[1] in (1, heads)
                and shape[2:] == (num_receivers, num_senders)
            )
        # only now the text: to torch.compile, a length that is written out is a constant
        if not fits:
            pairs = (
                f"[{batch} or 1, {heads} or 1, {num_receivers}, {num_senders}] (batch, heads, "
                "queries, keys)"
            )
            wanted = f"[{batch}, {num_senders}] (batch, keys)" if len(shape) == 2 else pairs
            raise ValueError(f"attention_mask must have shape {wanted}, got {list(shape)}")
