"""Several rounds of an operator on one graph."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator, inner_operator
from graphformer.errors import strict_flags, whole


class RoundsOperator(Operator, name="rounds"):
    r"""``x^(t + 1) = operator_t(x^(t), A)`` for t = 0..rounds - 1, on the same graph in each round:
    layers of a graph network inside one layer of attention (GIN's iterations, arXiv 1810.00826).

    One round is the operator itself. After R rounds a token has heard of those R steps away.

    A round reads what the one before has made of every sender; while decoding, a cache keeps that
    of past tokens (``rounds - 1`` vectors of the heads' width a token, beside keys and features).

    Args:
        inner: the operator of a round, its name or its plain form.
        rounds: how many.
        shared: whether all rounds have the same parameters; else each has its own, those of the
            first under ``inner``, of the others under ``more``.

    Shape: ``[B, H, N, d]`` to the same.
    """

    @strict_flags
    def __init__(self, inner: Any = "gin", rounds: int = 2, *, shared: bool = False) -> None:
        super().__init__()
        self.rounds, self.shared = whole("rounds", rounds), shared
        self.inner = inner_operator(self, inner)
        self.reads_edge_attr = self.inner.reads_edge_attr
        # a deep copy drawn anew: rounds that start alike would stay so where they get equal slopes
        self.more = nn.ModuleList(
            copy.deepcopy(self.inner) for _ in range(0 if shared else rounds - 1)
        )
        for one in self.more:
            if any(True for _ in one.parameters()):
                one.reset_parameters()  # type: ignore[operator]

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        steps = [self.inner] * self.rounds if self.shared else [self.inner, *self.more]
        for number, operator in enumerate(steps):
            if number:
                x = edges.of_all_senders(own, number)
            within = edges.within(number)
            if operator.reads_edges:
                own = operator.on_edges(own, x, within)
            else:
                own = operator(own, within.reductions(x, operator.reductions))
        return own
