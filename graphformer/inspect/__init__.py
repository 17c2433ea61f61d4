"""A look inside: pictures of graphs (matplotlib, extra ``viz``), and which executor each layer
takes.
"""

from graphformer.inspect.adapters import plot_lambda
from graphformer.inspect.explanations import Explanation, Explanations, explain
from graphformer.inspect.plots import plot_adjacency, plot_graph, plot_head, visible
from graphformer.inspect.reading import graphs
from graphformer.inspect.streamed import distance_profile, entropy, sender_mass, sink_mass
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes

__all__ = [
    "Explanation",
    "Explanations",
    "explain",
    "plot_adjacency",
    "plot_graph",
    "plot_head",
    "plot_lambda",
    "visible",
]
