"""The operator: what runs on the graph of each head."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphformer import backends
from graphformer.attention.pairs import Listed
from graphformer.attention.slot import Slot, check_slot
from graphformer.backends import base
from graphformer.errors import number
from graphformer.graph import AttentionGraph


class Operator(nn.Module, Slot, slot="operator"):
    """Base of the operators; one of your own overrides :meth:`forward`, or in the general form
    :meth:`on_edges`.

    In the usual form ``reductions`` names what it needs from a receiver's senders (see
    :func:`graphformer.attention.attend`), and no message is ever made: where it needs sums alone,
    no edge is. In the general form a message may depend on receiver and sender; then edges are
    built.

    Attributes:
        reads_edges: whether it is written in the general form.
        reads_edge_attr: whether it reads the features of edges there.
    """

    reductions: tuple[str, ...] = ()
    reads_edges: bool = False
    reads_edge_attr: bool = False
    told_by: ClassVar = {"on_edges": "reads_edges"}

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        """Combine the reductions, each ``[B, H, Nq, D]``, with the receiver's own features
        ``[B, H, Nq, D]``.
        """
        raise NotImplementedError

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        """From receivers' own features ``[B, H, Nq, D]``, what senders send ``[B, H, Nk, D]``, and
        the heads' edges, to ``[B, H, Nq, D]``.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class EdgeMessages:
    """The heads' edges, for operators in the general form.

    Attributes:
        graph: lanes ``(B, H)``, its weights those of this pass (after dropout).
        heads: H.
        backend: who adds up.
        edge_attr: features of the edges ``[E, D]``, where there are some; one row an edge of the
            graph.
        past: what a cache keeps of steps after the first, see :meth:`of_all_senders`: the step,
            the receivers' rows and the number of senders to the rows of all senders.
    """

    graph: AttentionGraph
    heads: int
    backend: str = "auto"
    edge_attr: Tensor | None = None
    past: Callable[[Hashable, Tensor, int], Tensor] | None = None

    @property
    def pairs(self) -> Listed:
        return self.graph.derived(f"pairs {self.heads}", lambda: Listed.of(self.graph, self.heads))

    @property
    def weight(self) -> Tensor:
        """``[E, 1]``, beside messages ``[E, D]``."""
        return self.graph.weight.unsqueeze(-1)

    def at_receivers(self, t: Tensor) -> Tensor:
        """``[B, H, Nq, D]`` to ``[E, D]``."""
        return self.pairs.at_receivers(t)

    def at_senders(self, t: Tensor) -> Tensor:
        """``[B, H, Nk, D]`` to ``[E, D]``."""
        return self.pairs.at_senders(t)

    def sum(self, messages: Tensor) -> Tensor:
        """Messages ``[E, D]`` added up at their receivers, ``[B, H, Nq, D]``."""
        graph = self.graph
        ends = torch.arange(graph.num_edges, device=graph.device), graph.receivers
        sizes = graph.num_edges, graph.num_lanes * graph.num_receivers
        rows = AttentionGraph.of_sorted(ends, messages.new_ones(graph.num_edges), sizes)
        out = base.aggregate(rows, messages, ("sum",), backends.get(self.backend))["sum"]
        return out.view(-1, self.heads, graph.num_receivers, messages.shape[-1])

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        """A reduction of features ``[B, H, Nk, D]`` with the weights, ``[B, H, Nq, D]``; no message
        is made.
        """
        return self.reductions(x, (reduction,))[reduction]

    def reductions(self, x: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Several reductions of the same features, by name; degrees ``[B, H, Nq, 1]``."""
        from graphformer.attention.attend import reduce

        shaped = x.reshape(*self.graph.batch_shape, *x.shape[2:])
        found = reduce(self.graph, self.graph, shaped, names, self.backend)
        shape = (-1, self.heads, self.graph.num_receivers)
        return {name: one.view(*shape, one.shape[-1]) for name, one in found.items()}

    def of_all_senders(self, own: Tensor, step: Hashable = 0) -> Tensor:
        """What was made of the receivers in this call ``[B, H, Nq, D]`` to what all senders have of
        it, ``[B, H, Nk, D]``: a cache gives it of the tokens that are past.

        Args:
            step: tells apart what one operator asks for.

        Raises:
            ValueError: receivers are other nodes than senders, and nothing is known of these.
        """
        graph = self.graph
        if self.past is not None:
            return self.past(step, own, graph.num_senders)
        if graph.num_receivers != graph.num_senders:
            raise ValueError(
                f"there are {graph.num_receivers} receivers and {graph.num_senders} senders, and a "
                "further step needs what all senders have made of the one before: give one set of "
                "nodes that sends and receives"
            )
        return own

    def within(self, part: Hashable) -> EdgeMessages:
        """The same edges for a part of an operator, whose steps are told apart from those of other
        parts.
        """
        past = self.past
        if past is None:
            return self
        return replace(self, past=lambda step, own, senders: past((part, step), own, senders))

    def weighing(self, weight: Tensor) -> EdgeMessages:
        """The same edges with other weights ``[E]``."""
        return replace(self, graph=self.graph.with_weight(weight))


def inner_operator(owner: Operator, inner: Any) -> Any:
    """An operator inside another one, from its name, its plain form or the value itself."""
    made = check_slot("operator", Operator, inner)
    # a layer fills in its sizes, and it is written down, as a value
    owner.__dict__["_given"]["inner"] = made
    return made


class OwnScaled(Operator, name="own_scaled"):
    """An operator that sees ``self_weight`` times the receiver's own features."""

    def __init__(self, inner: Any, self_weight: float = 1.0) -> None:
        super().__init__()
        number("self_weight", self_weight)
        inner = inner_operator(self, inner)
        if inner.reads_edges:
            raise ValueError(
                f"inner={inner.name!r} reads edges one by one, and its own features stand there: "
                "give an operator that reads sums"
            )
        self.inner, self.self_weight, self.reductions = inner, self_weight, inner.reductions

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return self.inner(self.self_weight * own, reduced)


class OwnAdded(OwnScaled, name="own_added"):
    """An operator to whose result ``self_weight`` times the receiver's own features are added."""

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return self.inner(own, reduced) + self.self_weight * own
