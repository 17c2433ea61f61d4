"""The edges that the data gave, among more candidates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.candidates.base import All, Rule
from graphformer.attention.candidates.edges import Among
from graphformer.attention.pairs import Pairs
from graphformer.graph import AttentionGraph


@dataclass(frozen=True)
class Given(Rule, name="given"):
    """Of the pairs of a graph those that the data have as edges: some heads on the edges, others
    on more, see :class:`~graphformer.attention.candidates.PerHead`.
    """

    same_heads = True

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        return All() if given is None else Among(given)

    def allow(self, pairs: Pairs) -> Tensor:
        raise ValueError(
            "candidates 'given' are the edges of a graph, and there are none here: it is for "
            "layers on edges and GraphTransformer; a text has windows (Window) and relations"
        )
