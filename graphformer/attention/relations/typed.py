"""Typed edges of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphformer.attention.relations.base import Relation
from graphformer.attention.relations.graph_edges import GraphEdges, TypedEdges
from graphformer.errors import require_known, whole
from graphformer.finite import readable

REDUCTIONS = ("mean", "sum")


class OnGraphs(Relation):
    """Base of relations between the nodes of a graph."""

    reads: ClassVar[str] = "edges"
    reduce: str

    @property
    def averages(self) -> bool:
        return self.reduce == "mean"


@dataclass(frozen=True)
class EdgeTypes(OnGraphs, name="edge_types"):
    """The given edges, one set for each type: ``data.edge_type``, an integer for each edge, as
    ``edge_type`` of PyG's RGCNConv.

    Args:
        num_types: types are ``0 .. num_types - 1``.
        reduce: ``"mean"`` over a receiver's edges of a type, or their ``"sum"``.
    """

    num_types: int
    reduce: str = "mean"
    attributes: ClassVar[tuple[str, ...]] = ("edge_type",)

    def __post_init__(self) -> None:
        whole("num_types", self.num_types)
        require_known("reduce", self.reduce, REDUCTIONS)

    @property
    def channels(self) -> int:
        return self.num_types

    def typed(self, edges: GraphEdges) -> TypedEdges:
        kind = edges.types
        if kind is None:
            raise ValueError(
                "relation 'edge_types' reads edge_type, an integer for each edge, and it is "
                "missing: set data.edge_type (in a layer's call: edge_type=); where columns of "
                "edge_attr are 1 for an edge of a type, take EdgeColumns"
            )
        if kind.is_floating_point() or kind.is_complex() or kind.dtype == torch.bool:
            raise TypeError(
                f"edge_type must hold integers, got {kind.dtype}: give edge_type.long()"
            )
        if tuple(kind.shape) not in ((len(edges.senders),), (len(edges.senders), 1)):
            raise ValueError(
                f"edge_type must be [{len(edges.senders)}], a type for each edge, got shape "
                f"{list(kind.shape)}"
            )
        kind = kind.reshape(-1).long()
        if readable(kind) and len(kind):
            least, most = int(kind.min()), int(kind.max())
            if not 0 <= least <= most < self.num_types:
                raise ValueError(
                    f"edge_type holds {least} to {most}, and EdgeTypes({self.num_types}) has "
                    f"weights for 0 to {self.num_types - 1}: number the types from 0, and give "
                    "num_types"
                )
        return edges.of_types(kind)


@dataclass(frozen=True)
class EdgeColumns(OnGraphs, name="edge_columns"):
    """The given edges, one set for each of some columns of ``edge_attr`` that are 1 for an edge of
    a type and else 0. An edge may be of several types, or of none.

    Args:
        columns: numbers of the columns.
        reduce: as of :class:`EdgeTypes`.
    """

    columns: Sequence[int]
    reduce: str = "mean"
    attributes: ClassVar[tuple[str, ...]] = ("edge_attr",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns must be different ones, at least one, got {self.columns}")
        for one in self.columns:
            whole("columns", one, 0)
        require_known("reduce", self.reduce, REDUCTIONS)

    @property
    def channels(self) -> int:
        return len(self.columns)

    def typed(self, edges: GraphEdges) -> TypedEdges:
        attr = edges.attr
        if attr is None:
            raise ValueError(
                "relation 'edge_columns' reads edge_attr, which is missing: give it, or take "
                "EdgeTypes, which reads edge_type"
            )
        attr = attr.reshape(-1, 1) if attr.ndim == 1 else attr
        if max(self.columns) >= attr.shape[1]:
            raise ValueError(
                f"relation 'edge_columns' reads column {max(self.columns)} of edge_attr, which has "
                f"{attr.shape[1]}"
            )
        chosen = attr[:, list(self.columns)]
        if readable(chosen) and not bool(((chosen == 0) | (chosen == 1)).all()):
            bad = int(((chosen != 0) & (chosen != 1)).any(0).nonzero()[0])
            raise ValueError(
                f"column {self.columns[bad]} of edge_attr must be 1 for the edges of a type and "
                "else 0, and holds other numbers: choose other columns, or make it two"
            )
        return edges.where(chosen != 0)


@dataclass(frozen=True)
class Neighbours(OnGraphs, name="neighbours"):
    """All given edges as one set.

    Args:
        reduce: as of :class:`EdgeTypes`.
    """

    reduce: str = "mean"

    def __post_init__(self) -> None:
        require_known("reduce", self.reduce, REDUCTIONS)

    def typed(self, edges: GraphEdges) -> TypedEdges:
        return edges.of_types(torch.zeros_like(edges.senders))
