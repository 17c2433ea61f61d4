"""The graph of an attention head as a value."""

from graphformer.graph.attention_graph import AttentionGraph
from graphformer.graph.counts import degrees, refuse_nan
from graphformer.graph.sinks import calibrate_sinks, sink_nodes

__all__ = ["AttentionGraph", "calibrate_sinks", "degrees", "refuse_nan", "sink_nodes"]
