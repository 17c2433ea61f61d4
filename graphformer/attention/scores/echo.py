"""EchoAtt: a layer that takes the graph of the layer before as its weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.scores.base import Score
from graphformer.graph import AttentionGraph


@dataclass(frozen=True, eq=False)
class Echo(Score, name="echo"):
    r"""``s_ij = w_ij`` of the layer before (arXiv 2409.14595): no queries and keys of its own.

    Nothing is added to them. Put it beside ``normalize="identity"``, so that the weights stay what
    they are. Its edges are those of the layer before; the layer's masks and a sparsifier may cut
    them further. Gradients go on to the layer before.

    Attributes:
        graph: the graph of the layer before; a layer fills it in at each call.
    """

    graph: AttentionGraph | None = None
    projects = False
    previous = True
    biased = False

    def of_call(
        self, sharpening: Tensor | None = None, previous: AttentionGraph | None = None
    ) -> Score:
        if previous is None:
            raise ValueError(
                "score='echo' takes the graph of the layer before: give it as previous=..., or put "
                "another layer before this one"
            )
        return Echo(previous)

    def candidates(self) -> AttentionGraph | None:
        return self.graph

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        assert self.graph is not None and isinstance(pairs, Listed)
        return pairs.of_graph(self.graph)[0]
