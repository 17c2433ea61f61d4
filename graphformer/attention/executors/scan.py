r"""Softmax over the senders up to the receiver, of logits that depend on the sender alone: the
linear executor's other form. No edges are built.

With logits :math:`s_j` and the running maximum :math:`m_i = \max_{j \le i} s_j`,

.. math::
    \mathrm{out}_i = a_i / c_i, \qquad a_i = \sum_{j \le i} e^{s_j - m_i} x_j, \qquad
    c_i = \sum_{j \le i} e^{s_j - m_i} ,

a scan over the triples :math:`(m, c, a)` (Aaren, arXiv 2405.13956, section 3), taken by blocks of
C tokens: within one all pairs are weighed, and a block hands its triple on to the next. Time is
``O(n C D)``, memory ``O(n (C + D))`` a head. The last triple is all that later tokens need of
these: a cache of constant size. No exponent is above 0. All of it is torch's own
operations, so it has derivatives of every order; the maximum cancels and needs none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
"""Tokens of a block."""


Triple = tuple[Tensor, Tensor]
"""The maximum ``[B, H]``, and the sums ``[B, H, D + 1]`` of weighted features and of weights."""


def running_softmax(
    logits: Tensor, x: Tensor, before: Triple | None = None
) -> tuple[Tensor, Triple]:
    """The formula on logits ``[B, H, N]``, minus infinity at a sender that nobody sees, and
    ``[B, H, N, D]``. A receiver that sees no sender gets 0.

    Args:
        before: the triple of the senders before these; None: there are none.

    Returns:
        ``[B, H, N, D]``, and the triple of all senders so far.
    """
    length = logits.shape[2]
    size = min(CHUNK, length)
    more = -length % size
    lowest = torch.finfo(logits.dtype).min
    s = F.pad(logits, (0, more), value=-torch.inf)
    top = s.detach().cummax(-1).values.clamp(min=lowest)
    if before is not None:
        top = torch.maximum(top, before[0].unsqueeze(-1))
    top = top.unflatten(2, (-1, size))
    s = s.unflatten(2, (-1, size))  # [B, H, blocks, C]
    x = F.pad(x, (0, 0, 0, more)).unflatten(2, (-1, size))
    x = torch.cat((x, torch.ones_like(x[..., :1])), -1)  # the last channel sums the weights
    last = top[..., -1]
    first = torch.full_like(last[:, :, :1], lowest) if before is None else before[0].unsqueeze(-1)
    ahead = torch.cat((first, last[:, :, :-1]), -1)  # the maximum where each block begins
    later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    within = (s.unsqueeze(-2) - top.unsqueeze(-1)).masked_fill(later, -torch.inf).exp()
    added = ((s - last.unsqueeze(-1)).exp().unsqueeze(-2) @ x).squeeze(-2)  # [B, H, blocks, D + 1]
    fall = (ahead - last).exp().unsqueeze(-1)
    state = torch.zeros_like(added[:, :, 0]) if before is None else before[1]
    states = []
    for block, kept in zip(added.unbind(2), fall.unbind(2), strict=True):
        states.append(state)
        state = kept * state + block
    since = (ahead.unsqueeze(-1) - top).exp().unsqueeze(-1)
    out = within @ x + since * torch.stack(states, 2).unsqueeze(-2)
    out = out.flatten(2, 3)[:, :, :length]
    total = out[..., -1:]
    out = out[..., :-1] / torch.where(total > 0, total, torch.ones_like(total))
    return out, (last[..., -1], state)
