"""The tokens of one call, of which blocks are made: which are real, and where numbers change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Row:
    """The tokens of one call. Without mask, texts and numbers of blocks all sequences are alike,
    and one stands for them.

    Attributes:
        batch, length, num_receivers: the receivers are the last of the tokens.
        keep: bool ``[B, N]``, real tokens. texts: int ``[B, N]``. block_ids: see
            :func:`~graphformer.attention.candidates.with_blocks.with_blocks`.
    """

    batch: int
    length: int
    num_receivers: int
    device: torch.device
    keep: Tensor | None
    texts: Tensor | None
    block_ids: Tensor | None

    @property
    def alike(self) -> bool:
        return self.keep is None and self.texts is None and self.block_ids is None

    @property
    def batches(self) -> int:
        return 1 if self.alike else self.batch

    def places(self) -> Tensor:
        """Of the tokens, ``[1, N]``."""
        return torch.arange(self.length, device=self.device).unsqueeze(0)

    def real(self) -> Tensor:
        if self.keep is not None:
            return self.keep
        return torch.ones(self.batches, self.length, dtype=torch.bool, device=self.device)

    def changes(self, ids: Tensor) -> Tensor:
        """Real tokens whose number is another one than that of the real token before."""
        real = self.real()
        place = torch.where(real, self.places(), -1).cummax(1).values
        before = F.pad(place[:, :-1], (1, 0), value=-1)
        return real & ((before < 0) | (ids != ids.gather(1, before.clamp(min=0))))

    def given(self, levels: int) -> list[Tensor]:
        """``block_ids``, checked, level by level."""
        ids, rows = self.block_ids, [self.batch, self.length]
        if ids is None:
            if levels:
                raise ValueError(
                    "sizes=None: where blocks begin comes with each call, and block_ids is not "
                    "given: layer(x, block_ids=ids), model(..., block_ids=ids)"
                )
            return []
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise TypeError(f"block_ids must hold integers, one number a block, got {ids.dtype}")
        split = ids.unsqueeze(-1) if ids.ndim == 2 else ids
        if list(split.shape) != [*rows, max(levels, 1)]:
            wanted = rows if levels < 2 else [*rows, levels]
            raise ValueError(
                f"block_ids must have shape {wanted} (batch, tokens with cached ones"
                f"{', levels with sizes=None' if levels > 1 else ''}), got {list(ids.shape)}"
            )
        if not levels:
            raise ValueError(
                "block_ids are given, and no size of Blocks is None: leave them out, or take "
                "Blocks(None)"
            )
        return list(split.unbind(-1))
