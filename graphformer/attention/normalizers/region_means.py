r"""Regions by their mean keys: what :class:`~graphformer.attention.normalizers.Regions` weighs, as
a softmax of plain dot products among the pairs of its windows.

The mean of dot products is the one with the mean key, so the logits :math:`L_{ic}` of a receiver
and the places c of its window cost ``n (regions d + regions window)``, and no pair is scored for
them. That of a pair is the product of :math:`q'_i` and a unit vector, with a text's place j modulo
the window K (an image's, along both axes):

.. math::
    L_{i, i - j} = \langle q'_i, e_{j \bmod K} \rangle, \qquad q'_{im} = L_{i, (i - m) \bmod K}.

So every executor runs it, and torch's kernel where no edges are asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphformer.attention.candidates.causal import Causal
from graphformer.attention.candidates.limits import Limits, limits
from graphformer.attention.candidates.neighborhood import Neighborhood
from graphformer.attention.candidates.window import Window
from graphformer.attention.normalizers.softmax import Softmax
from graphformer.attention.scores.dot import ScaledDotProduct

if TYPE_CHECKING:
    from graphformer.attention.normalizers.regions import Regions
    from graphformer.attention.problem import Problem


class Prepared(ScaledDotProduct):
    """Dot products of what a problem holds; those of a call's own queries are others."""

    def in_half(self, q: Tensor, k: Tensor, precision: torch.dtype) -> None:
        return None


def as_softmax(regions: Regions, problem: Problem) -> Problem | None:
    """The problem with its softmax written out; None where it needs the scores of pairs."""
    maps, found = problem.score.dots(problem.q, problem.k), limits(problem.rule)
    if maps is None or len(maps) != 1 or found is None or problem.edges is not None:
        return None
    factor, q, k = maps[0]
    if isinstance(factor, Tensor) or factor != 1.0 or q.shape[2] > k.shape[2]:
        return None
    dtype, window = q.dtype, regions.window
    place = torch.arange(k.shape[2], device=k.device)
    own = place[k.shape[2] - q.shape[2] :].unsqueeze(-1)
    if regions.shape is None:
        reach = regions.regions * regions.size
        if any(one < reach for one in found.windows):
            return None
        affinity = _of_text(q, k, regions, found)
        unit = place % window
        turned = (own - torch.arange(window, device=k.device)) % window
        rule = problem.rule & Window(window)
        rule = rule if found.causal else rule & Causal()
    else:
        rows, columns = regions.shape
        if found.causal or found.windows or found.texts or k.shape[2] != rows * columns:
            return None
        affinity = _of_image(q, k, regions, found)
        row, column, half = place // columns, place % columns, window // 2
        unit = row % window * window + column % window
        other = torch.arange(window**2, device=k.device)
        down = (other // window - own // columns + half) % window
        right = (other % window - own % columns + half) % window
        turned = down * window + right
        rule = problem.rule & Neighborhood(window, shape=regions.shape)
    logits = affinity @ regions.map.to(dtype) + regions.bias.to(dtype).unsqueeze(1)
    queries = logits.gather(-1, turned.expand(logits.shape))
    keys = F.one_hot(unit, logits.shape[-1]).to(dtype).expand(k.shape[0], 1, -1, -1)
    given: dict[str, Any] = {
        "q": queries,
        "k": keys,
        "rule": rule,
        "score": Prepared(),
        "normalize": Softmax(),
    }
    return replace(problem, **given)


def _of_text(q: Tensor, k: Tensor, regions: Regions, found: Limits) -> Tensor:
    """``[B, H, Nq, regions]``, the products with the mean keys of the regions behind each token."""
    count, size = q.shape[2], regions.size
    last = slice(None)
    if count != k.shape[2]:  # what is behind the new tokens, and no more of the past
        last = slice(max(k.shape[2] - count - regions.regions * size, 0), None)
    held = _real(k, found.real)[:, :, last]
    texts = [one[:, last] for one in found.texts]

    def behind(t: Tensor, steps: int) -> Tensor:
        """What stands ``steps`` before each token, 0 where that is of no text or of another."""
        moved = F.pad(t, (0, 0, steps, 0))[:, :, : t.shape[2]]
        for one in texts:
            other = F.pad(one, (steps, 0))[:, : one.shape[1]]
            moved = moved.masked_fill((other != one)[:, None, :, None], 0.0)
        return moved

    total, done, power = torch.zeros_like(held), 0, held
    for bit in range(size.bit_length()):  # no sum of all the text, of which rounding would be left
        if size >> bit & 1:
            total, done = total + behind(power, done), done + (1 << bit)
        power = power + behind(power, 1 << bit)
    means = (_mean(behind(total, r * size)[:, :, -count:]) for r in range(regions.regions))
    groups = q.shape[1] // k.shape[1]
    products = [(q * one.repeat_interleave(groups, 1)).sum(-1) for one in means]
    return torch.stack(products, -1)


def _of_image(q: Tensor, k: Tensor, regions: Regions, found: Limits) -> Tensor:
    """``[B, H, Nq, regions^2]``, the products with the mean keys of the cells."""
    held, number = _real(k, found.real), regions.regions**2
    cell = regions.cell(torch.arange(k.shape[2], device=k.device))
    total = held.new_zeros(*held.shape[:2], number, held.shape[3]).index_add(2, cell, held)
    means = _mean(total).repeat_interleave(q.shape[1] // k.shape[1], 1)
    return q @ means.mT


def _real(k: Tensor, real: Tensor | None) -> Tensor:
    """Keys with a 1 behind them, both 0 for padding: ``[B, Hkv, Nk, d + 1]``."""
    held = F.pad(k, (0, 1), value=1.0)
    return held if real is None else held.masked_fill(~real[:, None, :, None], 0.0)


def _mean(total: Tensor) -> Tensor:
    return total[..., :-1] / total[..., -1:].clamp(min=1)
