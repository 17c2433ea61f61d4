"""What a relation is: a named value that yields edges from what is known of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from graphformer.attention.relations.links import Links, Several
from graphformer.attention.slot import Slot, check_slot

if TYPE_CHECKING:
    from graphformer.attention.relations.graph_edges import GraphEdges, TypedEdges
    from graphformer.attention.relations.tokens import Tokens

PLACES = {
    "order": "the order of tokens",
    "ids": "input_ids",
    "edges": "the edges of a graph",
}
"""What a relation may read."""


class Relation(Slot, slot="relation"):
    """Base of all relations. One on texts overrides :meth:`edges`, the readable form, and may give
    the same edges in a form that costs less, :meth:`links`. One on graphs overrides :meth:`typed`.

    Attributes:
        reads: what its edges are made of, one of :data:`PLACES`.
        channels: how many sets of edges it has, each with weights of its own.
        attributes: what of a graph's data it reads beside ``edge_index``.
        averages: whether a receiver gets the mean over its edges, not their sum.
    """

    reads: ClassVar[str] = "order"
    attributes: ClassVar[tuple[str, ...]] = ()

    @property
    def channels(self) -> int:
        return 1

    def typed(self, edges: GraphEdges) -> TypedEdges:
        """Of a relation on graphs: the edges that carry messages, with types below
        :attr:`channels`.
        """
        raise NotImplementedError

    @property
    def averages(self) -> bool:
        return False

    def edges(self, tokens: Tokens) -> Tensor:
        """Bool ``[channels, B, N, Nk]``: which tokens send to which. Of a receiver only what it
        sees may be read (:meth:`Tokens.visible`), and never how long the text is.
        """
        raise NotImplementedError

    def links(self, tokens: Tokens) -> tuple[Links, ...]:
        """The same edges, one set for each channel, as something that sends messages."""
        return tuple(Several(one, self.averages) for one in self.edges(tokens))


RelationsLike = Relation | str | Mapping[str, Any] | Sequence[Relation | str | Mapping[str, Any]]
"""What a user may give for relations."""


def check(relations: Any) -> tuple[Relation, ...]:
    """Relations from what a user may pass: one or several, each a value, a name or a dictionary.

    Raises:
        TypeError: something else. ValueError: an unknown name, or the same relation twice.
    """
    if relations is None:
        return ()
    if isinstance(relations, (Relation, str, Mapping)) or not isinstance(relations, Sequence):
        relations = (relations,)
    found = tuple(
        check_slot("relation", Relation, one, "a Relation, a name or a list of them")
        for one in relations
    )
    for i, one in enumerate(found):
        if one in found[:i]:
            raise ValueError(f"relations hold {one} twice: once is enough, its weights are trained")
    return found


def refuse_unusable(relations: Sequence[Relation], places: Sequence[str], owner: str) -> None:
    """ValueError for relations that read what an owner has not.

    Args:
        places: what it has, of :data:`PLACES`.
    """
    for one in relations:
        if one.reads not in places:
            other = (
                "a text has no edges but those of its order and its tokens: take Chain or Repeats"
                if one.reads == "edges"
                else "the nodes of a graph have no order: make such edges edges of the data, with "
                "a type, and take EdgeTypes"
            )
            raise ValueError(
                f"relation {one.name!r} reads {PLACES[one.reads]}, which {owner} has not; {other}"
            )
