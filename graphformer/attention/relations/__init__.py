"""Relations: edges that data have before any attention, typed, with trained weights beside the
attention graph. One relation, one file.

>>> gf.GraphformerConfig(relations=[gf.Chain(3), gf.Repeats(1), gf.Repeats(2, "mean")])
>>> gf.GraphTransformer(node_dim=7, relations=[gf.EdgeTypes(4)])

What runs their messages, and where they are added: :class:`graphformer.nn.RelationMessages`.
"""

from graphformer.attention.relations.base import Relation, check
from graphformer.attention.relations.chain import Chain
from graphformer.attention.relations.graph_edges import GraphEdges, TypedEdges
from graphformer.attention.relations.links import Links
from graphformer.attention.relations.repeats import Repeats
from graphformer.attention.relations.tokens import Tokens, relation_graph
from graphformer.attention.relations.typed import EdgeColumns, EdgeTypes, Neighbours, OnGraphs

__all__ = [
    "Chain",
    "EdgeColumns",
    "EdgeTypes",
    "GraphEdges",
    "Links",
    "Neighbours",
    "OnGraphs",
    "Relation",
    "Repeats",
    "Tokens",
    "TypedEdges",
    "check",
    "relation_graph",
]
