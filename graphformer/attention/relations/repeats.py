"""What came after the last tokens before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graphformer.attention.relations.base import Relation
from graphformer.attention.relations.links import Links, One, Running
from graphformer.attention.relations.tokens import Tokens
from graphformer.errors import require_known, whole

FEW = 16
"""Where at most one token in so many receives, their rows are compared with all tokens: a step of
decoding then costs what one row of attention does, and nothing is sorted.
"""


@dataclass(frozen=True)
class Repeats(Relation, name="repeats"):
    """Edges ``i' + 1 -> i`` where ``i' < i`` and the ``n`` tokens up to ``i'`` are the ``n`` tokens
    up to ``i``: what followed the last time, which is what an induction head looks for (arXiv
    2209.11895; static n-gram heads, arXiv 2401.12973).

    Tokens are compared, not their hashes, so equal edges are equal texts. Sorted once for all
    layers, in ``O(N log N)`` numbers for a row of ``N`` tokens.

    Args:
        n: tokens that are compared.
        which: ``"last"``: from the latest such place. ``"mean"``: the mean over all of them.
    """

    n: int = 1
    which: str = "last"
    reads: ClassVar[str] = "ids"

    def __post_init__(self) -> None:
        whole("n", self.n)
        require_known("which", self.which, ("last", "mean"))

    @property
    def averages(self) -> bool:
        return self.which == "mean"

    def edges(self, tokens: Tokens) -> Tensor:
        assert tokens.ids is not None
        visible = tokens.visible()
        same = torch.ones_like(visible)  # the n tokens up to j are those up to i
        for steps in range(self.n):
            place, there = tokens.before(steps)
            own = tokens.ids[:, place]
            same = same & there.unsqueeze(-1) & _later(visible, steps)
            same = same & (own[:, :, None] == _later(tokens.ids, steps)[:, None, :])
        edges = _later(same, 1) & visible
        if self.which == "last" and edges.numel():
            newest = torch.where(edges, tokens.places, -1).amax(-1, keepdim=True)
            edges = edges & (tokens.places == newest)
        return edges.unsqueeze(0)

    def links(self, tokens: Tokens) -> tuple[Links, ...]:
        few = tokens.num_receivers * FEW <= tokens.num_senders
        if tokens.pairs is not None or few:
            return super().links(tokens)
        before, there = self._newest(tokens)
        sender = (before + 1).clamp(max=tokens.num_senders - 1)
        if self.which == "last":
            first = tokens.num_senders - tokens.num_receivers
            return (One(sender[:, first:], there[:, first:]),)
        count, jumps = there.long(), []
        jump, more = before, there & _pick(there, before)
        for _ in range(max(tokens.num_senders - 1, 1).bit_length()):
            if not torch.compiler.is_compiling() and not bool(more.any()):
                break
            jumps.append((jump, more))
            count = count + torch.where(more, _pick(count, jump), 0)
            jump, more = _pick(jump, jump), more & _pick(more, jump)
        return (Running(sender, there, jumps, count.clamp(min=1), tokens.num_receivers),)

    def _newest(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The latest place where the last ``n`` tokens were the same, ``[B, Nk]``, and whether
        there is one.
        """
        assert tokens.ids is not None
        shape = tokens.ids.shape
        if not tokens.ids.numel():
            return torch.zeros_like(tokens.ids), torch.zeros_like(tokens.ids, dtype=torch.bool)
        everyone = dataclasses.replace(tokens, num_receivers=shape[1])
        row = torch.arange(shape[0], device=tokens.device)[:, None].expand(shape)
        parts = [tokens.ids, row] if tokens.texts is None else [tokens.ids, row, tokens.texts]
        single = whole_runs = ranks(parts)
        inside = torch.ones(shape, dtype=torch.bool, device=tokens.device)
        for steps in range(self.n):
            place, seen = everyone.before(steps)
            inside = inside & seen
            if steps:  # by pairs: the run up to the token before, and the token
                whole_runs = ranks([_pick(whole_runs, everyone.before(1)[0]), single])
        # A place is one to copy from where the token after it is seen; of equal runs the newest.
        follows = torch.zeros_like(inside)
        follows[:, :-1] = everyone.before(1)[1].expand(shape)[:, 1:]
        if tokens.real is not None:
            follows[:, :-1] &= tokens.real[:, 1:]
        run = torch.where(inside, whole_runs, -1).flatten()
        order = run.sort(stable=True).indices  # rows and their tokens stay in order
        run, place = run[order], torch.arange(len(order), device=tokens.device)
        newest = torch.where((inside & follows).flatten()[order], place, -1).cummax(0).values
        newest = torch.cat((newest.new_full((1,), -1), newest[:-1]))  # before, not at
        there = (newest >= 0) & (run >= 0) & (run[newest.clamp(min=0)] == run)
        found = torch.empty_like(order).scatter_(0, order, order[newest.clamp(min=0)])
        there = torch.empty_like(there).scatter_(0, order, there)
        there, found = there.view(shape), found.view(shape) - row * shape[1]
        return torch.where(there, found, 0), there


def ranks(parts: Sequence[Tensor]) -> Tensor:
    """A number below ``B * N`` for each place, ``[B, N]``: equal exactly where all parts are."""
    found: Tensor | None = None
    for part in parts:
        dense = _rank(part.flatten())
        # both lie below B * N, so the product is exact in int64
        found = dense if found is None else _rank(found * len(dense) + dense)
    assert found is not None
    return found.view(parts[0].shape)


def _rank(values: Tensor) -> Tensor:
    ordered, order = values.sort()
    steps = torch.cat((ordered.new_zeros(1), (ordered.diff() != 0).long()))[: len(ordered)]
    return torch.empty_like(order).scatter_(0, order, steps.cumsum(0))


def _later(values: Tensor, steps: int) -> Tensor:
    """What stood ``steps`` places before along the last axis; false or 0 at the start."""
    if not steps:
        return values
    kept = values[..., : max(values.shape[-1] - steps, 0)]
    gap = values.shape[-1] - kept.shape[-1]
    return torch.cat((values.new_zeros(*values.shape[:-1], gap), kept), -1)


def _pick(values: Tensor, place: Tensor) -> Tensor:
    return values.gather(-1, place.expand(values.shape))
