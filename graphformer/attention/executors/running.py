"""What the senders so far leave to the receivers after them: sums of constant size in the place of
all keys, where the linear executor runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphformer.attention.executors.plans import Plan


@dataclass
class RunningSums:
    """The sums of one layer over the tokens of earlier calls.

    Attributes:
        parts: of a softmax of senders alone the running maximum ``[B, H]`` and the sums
            ``[B, H, D + 1]`` of weighted features and of weights; of sums without softmax
            ``[B, H, d, D]``. None as long as there are no tokens.
        tokens: how many there were.
        visible: int64 ``[B]``, the sum of a hash of the places of those that were no padding.
        padded: whether any was padding.
        why: why keys are kept instead, in words; None where sums are.
    """

    parts: tuple[Tensor, ...] | None = None
    tokens: int = 0
    visible: Tensor | None = field(default=None, repr=False)
    padded: bool = False
    why: str | None = None

    @property
    def held(self) -> bool:
        """Whether there are sums, so that keys are gone."""
        return self.parts is not None

    def need_keys(self, why: str) -> None:
        """From now on the cache keeps all keys.

        Raises:
            ValueError: sums have been kept in their place.
        """
        if self.held:
            raise ValueError(
                f"the cache holds sums over {self.tokens} tokens and not their keys, which are "
                f"needed here: {why}. Fill a cache of your own, transformers.DynamicCache(), which "
                "keeps all keys"
            )
        self.why = self.why or why

    def settle(self, plan: Plan, obstacle: str | None) -> Plan:
        """The plan of a call, which says what the cache keeps; the first call decides it.

        Args:
            obstacle: why the linear executor does not run, where it does not.

        Raises:
            ValueError: keys are needed, and sums have been kept.
        """
        if plan.executor != "linear":
            self.need_keys(obstacle or plan.reason)
        if torch.compiler.is_compiling():  # nobody is told
            return plan
        kept = (
            "the cache keeps sums over past tokens in the place of their keys"
            if self.why is None
            else f"the cache keeps all keys ({self.why})"
        )
        return replace(plan, reason=f"{plan.reason}; {kept}")

    def of_new(self, mask: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
        """Of a mask ``[B, past + N]`` the part of the ``N`` new tokens, which are counted from here
        on.

        Args:
            shape: B and N.

        Raises:
            ValueError: a mask of pairs, or one that says of past tokens what was not so when they
                were summed.
        """
        if not self.held:
            return mask
        batch, new = shape
        total = self.tokens + new
        if mask is not None and mask.shape != (batch, total):
            raise ValueError(
                f"the cache holds sums over {self.tokens} tokens, so attention_mask must be "
                f"[{batch}, {total}] (batch, tokens, cached ones included), got "
                f"{list(mask.shape)}: masks of pairs need the keys, which a cache of your own "
                "keeps, transformers.DynamicCache()"
            )
        if not torch.compiler.is_compiling():
            self._require_same(mask)
        return None if mask is None else mask[:, self.tokens :]

    def _require_same(self, mask: Tensor | None) -> None:
        if self.visible is None or (mask is None and not self.padded):
            return
        now = _fingerprint(mask, len(self.visible), self.tokens, self.visible.device)
        if not torch.equal(now, self.visible):
            raise ValueError(
                f"attention_mask hides other ones of the {self.tokens} cached tokens than when "
                "they were summed, and they cannot be taken out: give the mask that the cache was "
                "filled with, longer by the new tokens, or a cache of your own that keeps all "
                "keys, transformers.DynamicCache()"
            )

    def add(self, parts: tuple[Tensor, ...], shape: tuple[int, int], real: Tensor | None) -> None:
        """The sums with ``N`` new tokens in them.

        Args:
            parts: what :attr:`parts` becomes.
            shape: B and N.
            real: bool ``[B, N]``, which of the new tokens are no padding.
        """
        batch, new = shape
        more = _fingerprint(real, batch, new, parts[0].device, self.tokens)
        self.visible = more if self.visible is None else self.visible + more
        self.padded = self.padded or real is not None
        self.parts, self.tokens = parts, self.tokens + new

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change each tensor, whose first axis are sequences."""
        if self.parts is not None:
            self.parts = tuple(change(part) for part in self.parts)
        if self.visible is not None:
            self.visible = change(self.visible)


def _fingerprint(
    real: Tensor | None, batch: int, count: int, device: torch.device, start: int = 0
) -> Tensor:
    """int64 ``[B]``: the sum of a hash of the places of real tokens, among ``count`` from the
    ``start``-th on. Sums of places, or of their squares, would be equal for other tokens too.
    """
    # splitmix64 (Steele, Lea and Flood 2014) in integers that wrap around
    x = torch.arange(start + 1, start + count + 1, device=device) * -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    if real is None:
        return x.sum().expand(batch)
    return (real[:, :count].to(device).bool() * x).sum(-1)
