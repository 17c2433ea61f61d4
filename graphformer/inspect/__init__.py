"""Pictures of attention graphs. matplotlib is imported when something is drawn (extra ``viz``)."""

from graphformer.inspect.plots import plot_adjacency, plot_graph, plot_head, visible

__all__ = ["plot_adjacency", "plot_graph", "plot_head", "visible"]
