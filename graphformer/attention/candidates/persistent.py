"""Senders with learned keys and features that are no tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.blocks import AddedRule
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.errors import strict_flags, whole


class Persistent(nn.Module, AddedRule, name="persistent"):
    r"""Persistent tokens: M senders more, which every receiver sees,

    .. math::
        y_i = \sum_{j} w_{ij} x_j + \sum_{m=1}^{M} w_{i, N+m} u_m, \qquad
        s_{i, N+m} = \langle q_i, p_m \rangle / \sqrt d

    in one row with the tokens, with trained keys :math:`p_{hm}` and features :math:`u_{hm}` of each
    key head (persistent vectors, arXiv 1907.01470; persistent memory of Titans, arXiv 2501.00663;
    global memory). By itself there are these senders alone: ``All() | Persistent(4)``,
    ``Window(512) | Persistent(1)`` (an attention sink with features of its own),
    ``Blocks(64) | Persistent(4)``.

    They hold parameters and nothing of a text, so every law holds as without them, and a cache need
    not know them. In a graph they are the last senders. They stand nowhere: to scores that read
    distances they are at distance 0 of everyone, and with rotary positions as a key at place 0 is.

    Args:
        number: M.
        sends: False: features are 0. Then they are magnets, which take the surplus of a row's
            weights and send nothing (RefAM, arXiv 2509.22650), as a sink logit does that depends on
            the query.
        num_kv_heads, dim: key heads and the width of one; None: those of the layer.

    Raises:
        ValueError: a score whose keys have another width (``"differential"``, ``"forgetting"``).
    """

    @strict_flags
    def __init__(
        self,
        number: int,
        sends: bool = True,
        num_kv_heads: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.number, self.sends = whole("number", number), sends
        if num_kv_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.keys = nn.Parameter(torch.empty(num_kv_heads, self.number, dim))
        self.values = nn.Parameter(torch.empty_like(self.keys)) if sends else None
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.keys)
        if self.values is not None:
            nn.init.normal_(self.values)

    def extra_repr(self) -> str:
        return f"number={self.number}, sends={self.sends}"

    def of_keys(self, k: Tensor) -> Tensor:
        """Their keys beside those of tokens ``[B, Hkv, N, d]``: ``[B, Hkv, M, d]``."""
        return self._beside(self.keys, k, "keys", "score")

    def of_features(self, x: Tensor) -> Tensor:
        """Their features beside those of tokens ``[B, H or Hkv, N, d]``; the same in every step of
        an operator that has several.
        """
        if self.values is None:
            return x.new_zeros(*x.shape[:2], self.number, x.shape[3])
        return self._beside(self.values, x, "features", "operator")

    def _beside(self, own: Tensor, t: Tensor, what: str, slot: str) -> Tensor:
        heads, width = t.shape[1], t.shape[3]
        if width != own.shape[2] or heads % len(own):
            raise ValueError(
                f"candidates='persistent' has {what} of {len(own)} x {own.shape[2]} channels (key "
                f"heads x width), and the {slot} has {heads} x {width}: take another {slot}, or "
                "leave 'persistent' out"
            )
        own = own.repeat_interleave(heads // len(own), dim=0).to(t.dtype)
        return own.expand(len(t), -1, -1, -1)


@dataclass(frozen=True)
class Added(Rule):
    """Senders ``first .. first + number - 1``, for everyone."""

    first: int
    number: int
    same_heads = True

    def _range(self) -> range:
        return range(self.first, self.first + self.number)

    def allow(self, pairs: Pairs) -> Tensor:
        return (self.first <= pairs.sender) & (pairs.sender < self.first + self.number)

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return self._range()

    def free(self, rows: range, num_receivers: int, num_senders: int) -> range:
        return self._range()

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        first = torch.full((sizes[2],), self.first, device=device)
        return Senders.between(first, first + self.number, sizes[3])
