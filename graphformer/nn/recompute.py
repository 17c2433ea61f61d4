"""Run an operator on a stretch of tokens at a time and make its intermediates again in the backward
pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.recomputing import recomputed

CHUNK_TOKENS = 512
"""Tokens of all sequences together in one stretch. Measured at hidden size 512: the stretch stays
in the cache, so that computing it twice costs no more time than writing it to memory and reading it
back.
"""


def in_stretches(operator: nn.Module, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
    """``operator(own, reduced)`` for tensors ``[B, H, N, *]``; an operator treats every token by
    itself, so stretches are independent.

    Where no gradient is asked for, where everything is one stretch, and under ``torch.compile``
    (which decides itself what to keep), the operator is simply called.
    """
    # asked first: a question about the length would be one about every length it is compiled for
    if torch.compiler.is_compiling():
        return operator(own, reduced)
    size = max(1, CHUNK_TOKENS // max(1, own.shape[0]))
    if not torch.is_grad_enabled() or own.shape[2] <= size:
        return operator(own, reduced)
    parts = [own.split(size, dim=2), *(value.split(size, dim=2) for value in reduced.values())]

    def stretch(piece: Tensor, *values: Tensor) -> Tensor:
        return operator(piece, dict(zip(reduced, values, strict=True))).transpose(1, 2)

    outputs = [recomputed(stretch, *pieces) for pieces in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1).transpose(1, 2)
