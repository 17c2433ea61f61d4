"""A look inside: the exact graphs of any transformer (:func:`graphs`), measures of them, what is
lost without a head, pictures (matplotlib, extra ``viz``), and which executor each layer takes.
"""

from graphformer.inspect.ablation import ablate, cut
from graphformer.inspect.adapters import plot_lambda
from graphformer.inspect.circuits import SparseAutoencoder, circuit
from graphformer.inspect.collecting import collect, compare
from graphformer.inspect.curves import plot_losses
from graphformer.inspect.explanations import Explanation, Explanations, explain
from graphformer.inspect.flows import flow, rollout
from graphformer.inspect.parameter_plots import plot_parameters
from graphformer.inspect.parameters import parameters
from graphformer.inspect.parity import plot_parity
from graphformer.inspect.pictures import plot_grains, plot_polymer, plot_protein, refined_graph
from graphformer.inspect.plots import (
    plot_adjacency,
    plot_graph,
    plot_head,
    plot_layer,
    plot_rows,
    visible,
)
from graphformer.inspect.reading import graphs
from graphformer.inspect.similarity import shareable_layers, similarity
from graphformer.inspect.streamed import (
    Streamed,
    distance_profile,
    entropy,
    sender_mass,
    sink_mass,
)
from graphformer.inspect.token_scores import token_scores
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes

__all__ = [
    "Explanation",
    "Explanations",
    "LayerGraph",
    "ModelGraphs",
    "Nodes",
    "SparseAutoencoder",
    "Streamed",
    "ablate",
    "circuit",
    "collect",
    "compare",
    "cut",
    "distance_profile",
    "entropy",
    "explain",
    "flow",
    "graphs",
    "parameters",
    "plot_adjacency",
    "plot_grains",
    "plot_graph",
    "plot_head",
    "plot_lambda",
    "plot_layer",
    "plot_losses",
    "plot_parameters",
    "plot_parity",
    "plot_polymer",
    "plot_protein",
    "plot_rows",
    "refined_graph",
    "rollout",
    "sender_mass",
    "shareable_layers",
    "similarity",
    "sink_mass",
    "token_scores",
    "visible",
]
