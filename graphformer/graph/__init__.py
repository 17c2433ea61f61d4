"""The graph of an attention head as a value."""

from graphformer.graph.attention_graph import AttentionGraph
from graphformer.graph.counts import degrees, refuse_nan

__all__ = ["AttentionGraph", "degrees", "refuse_nan"]
