"""A look inside: pictures of graphs (matplotlib, extra ``viz``), and which executor each layer
takes.
"""

from graphformer.inspect.adapters import plot_lambda
from graphformer.inspect.explanations import Explanation, Explanations, explain
from graphformer.inspect.plots import plot_adjacency, plot_graph, plot_head, visible

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
