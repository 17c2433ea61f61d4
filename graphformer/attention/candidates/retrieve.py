"""Retrieve and read: a query beside a context that has pairs of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphformer.attention.candidates.base import All, Rule
from graphformer.attention.pairs import Pairs


@dataclass(frozen=True, eq=False)
class RetrieveAndRead(Rule, name="retrieve_and_read"):
    r"""Query tokens :math:`Q` and context tokens :math:`C`: a query reads the context and the
    context the query, and inside the context there are the pairs of another rule,

    .. math::
        E = \{(j, i) : j \in C, i \in C, \mathrm{inside}(j, i)\}
            \cup (Q \times C) \cup (C \times Q)

    the query-context subgraphs of retrieval: :math:`i` and :math:`j` of the same sequence, none
    inside the query. In a causal layer only what comes before is read. On graphs it goes by name,
    ``GraphTransformer(candidates="retrieve")`` with ``data.is_query``, where the pairs inside the
    context are the given edges.

    >>> is_query = torch.tensor([[1, 1, 0, 0, 0, 0]])
    >>> layer(x, candidates=RetrieveAndRead(is_query, inside=Window(2)))

    Args:
        is_query: bool or 0 and 1 ``[B, Nk]``, the query tokens; the others are context.
        inside: pairs inside the context.

    Raises:
        ValueError: another shape. TypeError: other numbers.
    """

    is_query: Tensor
    inside: Rule = field(default_factory=All)

    def __post_init__(self) -> None:
        unseen = self.is_query.dtype == torch.bool or torch.compiler.is_compiling()
        if not unseen and not bool(((self.is_query == 0) | (self.is_query == 1)).all()):
            raise TypeError("is_query must hold 1 (query) and 0 (context) or booleans")

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        return self.inside.absolute

    @property
    def same_heads(self) -> bool:  # type: ignore[override]
        return self.inside.same_heads

    def counted_from(self, starts: Tensor) -> Rule:
        return replace(self, inside=self.inside.counted_from(starts))

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return replace(self, inside=self.inside.of_call(q, k, training))

    @property
    def chooses(self) -> bool:  # type: ignore[override]
        return self.inside.chooses

    def among(self, limits: Rule) -> Rule:
        return replace(self, inside=self.inside.among(limits))

    def on_edges(self, given: object) -> Rule:
        raise ValueError(
            "candidates 'retrieve_and_read' name the tokens of a text; in a graph take "
            "GraphTransformer(candidates='retrieve') and data.is_query"
        )

    def allow(self, pairs: Pairs) -> Tensor:
        query = self.is_query.bool()
        receiver = query[pairs.sequence, pairs.position]
        sender = query[pairs.sequence, pairs.sender]
        return (receiver ^ sender) | (~receiver & ~sender & self.inside.allow(pairs))

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if tuple(self.is_query.shape) != (batch, num_senders):
            raise ValueError(
                f"is_query must have shape [{batch}, {num_senders}] (batch, keys), got "
                f"{list(self.is_query.shape)}"
            )
        if num_receivers > num_senders:
            raise ValueError(
                f"is_query tells of {num_senders} keys, and there are {num_receivers} queries: a "
                "receiver is the token at its own place among the keys"
            )
        self.inside.check(batch, heads, num_receivers, num_senders)
