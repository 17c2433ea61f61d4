"""Pairs of sender and receiver: the one view that the formulas of slots are written on.

A formula gets scores or weights of pairs and the pairs themselves, and does not know whether these
are a masked block of the score matrix (:class:`Block`) or a list of edges (:class:`Listed`). What
it asks of them broadcasts to the scores:

=========================  =====================================================================
``dot(q, k)``              dot products, by ``bmm`` in a block and edge by edge in a list
``at_receivers(t)``        ``t`` ``[B, H, Nq, ...]`` at each pair's receiver
``at_senders(t)``          ``t`` ``[B, Hkv, Nk, ...]`` at each pair's sender
``of_head(p)``             ``p`` ``[H, ...]`` for each pair's head
``position``, ``distance`` the receiver's place among the senders; how far behind it the sender is
``count()``                candidates of the pair's receiver: what a row's sums run over
``sum(v)``, ``max(v)``     over the candidates of the pair's receiver
``rank(v)``                the pair's place among them by falling ``v``, from 0; ties by sender
``highest(v, n)``          whether it is among the n largest: ``rank(v) < n``
``softmax(s)``             ``exp(s) / sum exp(s)`` over them
``lane_sum(v)``            over all pairs of the pair's lane (one head of one sequence)
=========================  =====================================================================

Rows know nothing of the total length, so a prefix gets what the full sequence gives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from graphformer.backends.sums import EdgeDots, Ends
from graphformer.graph import AttentionGraph, degrees
from graphformer.graph.keys import numbers_of, pair_keys


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which pairs: four int64 tensors that broadcast against each other, and the sizes.

    This alone is what a rule of candidates is asked about (:class:`Rule`); the row functions are
    those of :class:`Block` and :class:`Listed`.

    Attributes:
        standing: int64 ``[B or 1, Nk]``, where senders stand that are not all tokens, counted so
            that the last token stands at ``num_senders - 1``; below 0: nowhere, at distance 0 of
            everyone.
    """

    sequence: Tensor
    head: Tensor
    receiver: Tensor
    sender: Tensor
    num_receivers: int
    num_senders: int
    standing: Tensor | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> torch.Size:
        """The common shape of the four tensors."""
        ends = (self.sequence, self.head, self.receiver, self.sender)
        return torch.broadcast_shapes(*(one.shape for one in ends))

    @property
    def position(self) -> Tensor:
        """The receiver's place among the senders. With a cache, the last receiver is the last
        sender.
        """
        return self.receiver + (self.num_senders - self.num_receivers)

    @property
    def distance(self) -> Tensor:
        """How many places the sender stands before the receiver; negative after it."""
        if self.standing is None:
            return self.position - self.sender
        sequence = self.sequence if len(self.standing) > 1 else torch.zeros_like(self.sequence)
        standing = self.standing[sequence, self.sender]
        return torch.where(standing < 0, 0, self.position - standing)

    @classmethod
    def every(
        cls, batch: int, heads: int, num_receivers: int, num_senders: int, device: torch.device
    ) -> Pairs:
        """All pairs, shaped to broadcast to ``[batch, heads, num_receivers, num_senders]``."""
        return cls(
            torch.arange(batch, device=device).view(-1, 1, 1, 1),
            torch.arange(heads, device=device).view(-1, 1, 1),
            torch.arange(num_receivers, device=device).view(-1, 1),
            torch.arange(num_senders, device=device),
            num_receivers,
            num_senders,
        )


@dataclass(frozen=True, eq=False)
class Block(Pairs):
    """Rows of all the heads of some sequences: values are ``[b, H, R, N]``.

    Attributes:
        allowed: bool, broadcastable to ``[b, H, R, N]``: which of the pairs are candidates.
        sequences, rows, columns: what part of the tensors of a call the block is.
    """

    allowed: Tensor
    sequences: slice = field(default_factory=lambda: slice(None))
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))

    def dot(self, q: Tensor, k: Tensor) -> Tensor:
        """``[b, H, R, N]``; each key head serves a group of query heads."""
        q, k = q[self.sequences, :, self.rows], k[self.sequences, :, self.columns]
        batch, heads, rows, dim = q.shape
        kv_heads, num_senders = k.shape[1], k.shape[2]
        if kv_heads == heads:
            return q @ k.transpose(-1, -2)
        grouped = q.reshape(batch, kv_heads, heads // kv_heads * rows, dim)
        return (grouped @ k.transpose(-1, -2)).view(batch, heads, rows, num_senders)

    def at_receivers(self, t: Tensor) -> Tensor:
        """``[B or 1, H or 1, Nq or 1, ...]`` to ``[b, H, R, 1, ...]``, or 1 where it was 1."""
        return self._part(t, self.rows).unsqueeze(3)

    def at_senders(self, t: Tensor) -> Tensor:
        """``[B or 1, Hkv or 1, Nk, ...]`` to ``[b, H, 1, N, ...]``."""
        part, heads = self._part(t, self.columns), self.head.numel()
        if part.shape[1] not in (1, heads):
            part = part.repeat_interleave(heads // part.shape[1], dim=1)
        return part.unsqueeze(2)

    def _part(self, t: Tensor, nodes: slice) -> Tensor:
        t = t if len(t) == 1 else t[self.sequences]
        return t if t.shape[2] == 1 else t[:, :, nodes]

    def of_head(self, p: Any) -> Any:
        """``[H, ...]`` to ``[H, 1, 1, ...]``; a number stays one."""
        if not isinstance(p, Tensor) or p.ndim == 0:
            return p
        heads = p.index_select(0, self.head.flatten())
        return heads.view(*self.head.shape[:-2], 1, 1, *p.shape[1:])

    def only(self, values: Tensor) -> Tensor:
        """0 where a pair is no candidate, and no gradient."""
        return values.masked_fill(~self.allowed, 0.0)

    def count(self) -> Tensor:
        """int64 ``[b, H, R, 1]``, or 1 where rows of heads or sequences have the same
        candidates.
        """
        shape = (*self.allowed.shape[:-1], self.sender.shape[-1])
        return self.allowed.expand(shape).sum(-1, keepdim=True)

    def sum(self, values: Tensor) -> Tensor:
        return self.only(values).sum(-1, keepdim=True)

    def max(self, values: Tensor) -> Tensor:
        """0 in a row without candidates."""
        top = values.masked_fill(~self.allowed, -math.inf).amax(-1, keepdim=True)
        return torch.where(top == -math.inf, torch.zeros_like(top), top)

    def rank(self, values: Tensor) -> Tensor:
        order = values.masked_fill(~self.allowed, -math.inf).argsort(
            dim=-1, descending=True, stable=True
        )
        places = torch.arange(values.shape[-1], device=values.device).expand_as(order)
        return torch.empty_like(order).scatter_(-1, order, places)

    def highest(self, values: Tensor, number: Tensor | int) -> Tensor:
        """As ``rank(values) < number``, without the ranks."""
        order = values.masked_fill(~self.allowed, -math.inf).sort(
            dim=-1, descending=True, stable=True
        )
        keep = torch.zeros_like(values, dtype=torch.bool)
        if isinstance(number, int):
            return keep.scatter_(-1, order.indices[..., :number], True)
        within = torch.arange(values.shape[-1], device=values.device) < number
        return keep.scatter_(-1, order.indices, within.expand_as(keep))

    def softmax(self, scores: Tensor) -> Tensor:
        # The lowest finite number instead of -inf: a row without candidates is then uniform rather
        # than NaN, before it is set to 0.
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~self.allowed, lowest).softmax(-1)

    def lane_sum(self, values: Tensor) -> Tensor:
        return self.only(values).sum((-2, -1), keepdim=True)


@dataclass(frozen=True, eq=False)
class Listed(Pairs):
    """Edges: values are ``[E]``.

    Attributes:
        graph: lanes ``(B, H)`` or ``(H,)``, whose weights are not looked at.
        heads: H.
        group: int64 ``[E]``, the row that each pair belongs to, ``0..num_groups - 1``.
        numbers: int64 ``[E]``, which edges of the list that was cut these are; None where nothing
            was.
        there: bool ``[E]`` of a list that keeps its length, whatever is cut: which of its entries
            are pairs still.
    """

    graph: AttentionGraph
    heads: int
    group: Tensor
    num_groups: int
    numbers: Tensor | None = None
    there: Tensor | None = None

    @classmethod
    def of(cls, graph: AttentionGraph, heads: int) -> Listed:
        """The edges of a graph as pairs."""
        lane = head = graph.sender_lane
        sequence = lane.new_zeros(()).expand_as(lane)
        if graph.num_lanes != heads:  # several sequences
            sequence = torch.div(lane, max(heads, 1), rounding_mode="floor")
            head = lane % max(heads, 1)
        return cls(
            sequence,
            head,
            graph.receivers % max(graph.num_receivers, 1),
            graph.senders % max(graph.num_senders, 1),
            graph.num_receivers,
            graph.num_senders,
            graph,
            heads,
            graph.receivers,
            graph.num_lanes * graph.num_receivers,
        )

    @classmethod
    def of_fixed_length(
        cls, senders: Tensor, receivers: Tensor, heads: int, num_senders: int, num_receivers: int
    ) -> Listed:
        """The same edges for every head, in any order, made of what any tracer knows.

        No shape may depend on numbers, so what is cut stays where it stands, in a row of its own:
        there is one row more than there are receivers.
        """
        lane = torch.arange(heads, device=senders.device).unsqueeze(-1)
        ends = (
            (senders + num_senders * lane).reshape(-1),
            (receivers + num_receivers * lane).reshape(-1),
        )
        graph = AttentionGraph.of_sorted(ends, None, (num_senders, num_receivers), (heads,))
        head = lane.expand(-1, senders.shape[0]).reshape(-1)
        return cls(
            torch.zeros_like(head),
            head,
            receivers.repeat(heads),
            senders.repeat(heads),
            num_receivers,
            num_senders,
            graph,
            heads,
            graph.receivers,
            heads * num_receivers + 1,
            there=torch.ones_like(head, dtype=torch.bool),
        )

    def cut(self, keep: Tensor, *values: Tensor) -> tuple[Any, ...]:
        """The pairs for which ``keep`` (bool ``[E]``) is true, and their ``values``. A list that
        keeps its length has 0 in the places of the others.
        """
        if self.there is not None:
            keep = self.there & keep
            last = torch.zeros_like(self.group) + (self.num_groups - 1)
            group = torch.where(keep, self.graph.receivers, last)
            left = (torch.where(keep, one, torch.zeros_like(one)) for one in values)
            return replace(self, group=group, there=keep), *left
        found = numbers_of(keep)
        if len(found) == len(self.sender):  # nothing goes, and no order is made anew
            return self, *values
        graph = replace(
            self.graph,
            senders=self.graph.senders[found],
            receivers=self.graph.receivers[found],
            weight=self.graph.weight[: len(found)],  # nobody looks at it
            _derived={},
        )
        pairs = replace(
            self,
            sequence=self.sequence[found],
            head=self.head[found],
            receiver=self.receiver[found],
            sender=self.sender[found],
            graph=graph,
            group=graph.receivers,
            numbers=found if self.numbers is None else self.numbers[found],
        )
        return pairs, *(one[found] for one in values)

    def dot(self, q: Tensor, k: Tensor) -> Tensor:
        if self.heads == 0:  # no head, so no group of them
            return 0.0 * (q.sum() + k.sum()) * q.new_zeros(0)
        if self.there is not None:
            return (self.at_receivers(q) * self.at_senders(k)).sum(-1)
        return EdgeDots.apply(
            q.flatten(0, 2), k.flatten(0, 2), Ends.of(self.graph, self.heads // k.shape[1])
        )

    def at_receivers(self, t: Tensor) -> Tensor:
        """``[B or 1, H or 1, Nq or 1, ...]`` to ``[E, ...]``, or a single row where it was one."""
        rows = t.shape[:3]
        # Compared with the number of nodes, and not with 1: a traced number is then no constant.
        full = rows[2] == self.num_receivers
        place = self.receiver if full else torch.zeros_like(self.receiver)
        place = place + (self.head * rows[2] if rows[1] > 1 else 0)
        place = place + (self.sequence * (rows[1] * rows[2]) if rows[0] > 1 else 0)
        return t.flatten(0, 2).index_select(0, place)

    def at_senders(self, t: Tensor) -> Tensor:
        """``[B or 1, Hkv or 1, Nk, ...]`` to ``[E, ...]``."""
        batch, kv_heads, nodes = t.shape[:3]
        head = torch.div(self.head, max(self.heads // kv_heads, 1), rounding_mode="floor")
        place = self.sender + (head * nodes if kv_heads > 1 else 0)
        place = place + (self.sequence * (kv_heads * nodes) if batch > 1 else 0)
        return t.flatten(0, 2).index_select(0, place)

    def of_head(self, p: Any) -> Any:
        """``[H, ...]`` to ``[E, ...]``; a number stays one."""
        return p if not isinstance(p, Tensor) or p.ndim == 0 else p.index_select(0, self.head)

    def only(self, values: Tensor) -> Tensor:
        """0 where an entry of a list that keeps its length is no pair."""
        if self.there is None:
            return values
        return torch.where(self.there, values, torch.zeros_like(values))

    def count(self) -> Tensor:
        return degrees(self.group, self.num_groups)[self.group]

    def sum(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.num_groups).index_add(0, self.group, values)[self.group]

    def max(self, values: Tensor) -> Tensor:
        top = values.new_zeros(self.num_groups)
        return top.scatter_reduce(0, self.group, values, "amax", include_self=False)[self.group]

    def rank(self, values: Tensor) -> Tensor:
        by_value = values.argsort(descending=True, stable=True)
        order = by_value[self.group[by_value].argsort(stable=True)]
        degree = degrees(self.group, self.num_groups)
        start = torch.cumsum(degree, 0) - degree
        places = torch.arange(order.shape[0], device=values.device) - start[self.group[order]]
        return torch.empty_like(order).scatter_(0, order, places)

    def highest(self, values: Tensor, number: Tensor | int) -> Tensor:
        return self.rank(values) < number

    def softmax(self, scores: Tensor) -> Tensor:
        exp = (scores - self.max(scores.detach())).exp()
        return exp / self.sum(exp)

    def lane_sum(self, values: Tensor) -> Tensor:
        lane = self.sequence * self.heads + self.head
        return values.new_zeros(self.graph.num_lanes).index_add(0, lane, self.only(values))[lane]

    def of_graph(self, graph: AttentionGraph) -> tuple[Tensor, Tensor]:
        """The weights that a graph with the same lanes has at the pairs, 0 where it has none, and
        bool ``[E]``, where it has one. Of several equal edges the first counts.
        """
        mine, theirs = self.graph, graph
        if mine.senders is theirs.senders and mine.receivers is theirs.receivers:
            return theirs.weight, torch.ones_like(theirs.senders, dtype=torch.bool)
        sizes = (mine.num_lanes, mine.num_senders, mine.num_receivers)
        if sizes != (theirs.num_lanes, theirs.num_senders, theirs.num_receivers):
            raise ValueError(
                f"the graph must have {sizes[0]} lanes of {sizes[1]} senders and {sizes[2]} "
                f"receivers, got {graph}"
            )
        rows, width = mine.num_lanes * mine.num_receivers, mine.num_lanes * mine.num_senders
        keys = pair_keys(theirs.receivers, theirs.senders, rows, width)
        wanted = pair_keys(mine.receivers, mine.senders, rows, width)
        if not keys.numel():
            return theirs.weight.new_zeros(wanted.shape), torch.zeros_like(wanted, dtype=torch.bool)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        there = keys[place] == wanted
        weight = theirs.weight[place]
        return torch.where(there, weight, torch.zeros_like(weight)), there
