"""The graph of an attention head as a value."""

from graphformer.graph.attention_graph import AttentionGraph
from graphformer.graph.counts import degrees, refuse_nan
from graphformer.graph.magnets import redirect_sinks, without_last
from graphformer.graph.sinks import calibrate_sinks, sink_nodes

__all__ = [
    "AttentionGraph",
    "calibrate_sinks",
    "degrees",
    "redirect_sinks",
    "refuse_nan",
    "sink_nodes",
    "without_last",
]
