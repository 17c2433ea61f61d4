"""The stream executor: the slots on blocks of whole rows, so that no N x N matrix is ever held.

Memory is O(N * block + edges): a block's scores are dropped once its edges are read off, and made again in the backward pass.
Exact, because every slot acts on one row at a time.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from graphformer.attention import dense
from graphformer.attention.problem import Problem
from graphformer.graph import AttentionGraph

BLOCK_ELEMENTS = 2**20
"""Scores held at a time. Measured: smaller blocks spend their time in call overhead, larger ones fall out of the cache."""


def block_rows(problem: Problem) -> int:
    """Rows of all lanes together that fit one block."""
    batch, heads, _, num_senders = problem.sizes
    return max(1, BLOCK_ELEMENTS // max(1, batch * heads * num_senders))


def build(problem: Problem) -> AttentionGraph:
    """Block by block, then the edges in the order of their receivers."""
    batch, heads, num_receivers, num_senders = problem.sizes
    size = block_rows(problem)
    parts = []
    for start in range(0, num_receivers, size):
        block = range(start, min(start + size, num_receivers))
        parts.append(checkpoint(dense.rows, problem, problem.q[:, :, block.start : block.stop], problem.k, block, use_reentrant=False))
    if not parts:
        return dense.build(problem)
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    order = receivers.argsort(stable=True)
    return AttentionGraph(senders[order], receivers[order], weight[order], batch * heads, num_senders, num_receivers, (batch, heads))
