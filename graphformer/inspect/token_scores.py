"""How much a head looks at the token before, at earlier copies of its token, and at what followed
them: the heads that circuits are made of (arXiv 2209.11895).
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.graph import AttentionGraph

Scores = dict[str, Tensor]


def token_scores(graph: AttentionGraph, ids: Tensor | None) -> Scores:
    r"""Each ``[num_lanes]``, the mean over receivers ``i`` that have such a sender of

    ===================  =====================================================================
    ``previous_token``   ``w_{i, i-1}``
    ``duplicate_token``  ``sum_{j < i, t_j = t_i} w_ij``
    ``induction``        ``sum_{j < i, t_{j-1} = t_i} w_ij``: the token after an earlier copy
    ===================  =====================================================================

    over the edges that were kept, so each is at least what it would be with edges that were cut.

    Args:
        graph: one sequence's heads, as many receivers as senders.
        ids: token ids ``[N]``; without them only ``previous_token`` is known.
    """
    count = graph.num_nodes
    sender, receiver = graph.senders % max(count, 1), graph.receivers % max(count, 1)
    found = {"previous_token": _mean(graph, sender == receiver - 1, count - 1)}
    if ids is None:
        return found
    ids = ids.to(graph.device)
    earlier = sender < receiver
    same = earlier & (ids[sender] == ids[receiver])
    before = ids[(sender - 1).clamp(min=0)]
    after = earlier & (sender > 0) & (before == ids[receiver])
    # receivers that have an earlier copy; and those whose copy is not the token just before
    copies, following = _earlier_copies(ids)
    found["duplicate_token"] = _mean(graph, same, copies)
    found["induction"] = _mean(graph, after, following)
    return found


def _mean(graph: AttentionGraph, chosen: Tensor, receivers: int) -> Tensor:
    weight = torch.where(chosen, graph.weight.detach(), torch.zeros_like(graph.weight))
    total = weight.new_zeros(graph.num_lanes).index_add(0, graph.sender_lane, weight)
    return total / receivers if receivers > 0 else torch.full_like(total, torch.nan)


def _earlier_copies(ids: Tensor) -> tuple[int, int]:
    """How many tokens have an earlier copy, and how many one that another token follows before
    them.
    """
    first: dict[int, int] = {}
    copies = following = 0
    for place, token in enumerate(ids.tolist()):
        if token in first:
            copies += 1
            following += first[token] + 1 < place
        else:
            first[token] = place
    return copies, following
