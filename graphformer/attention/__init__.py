"""The slots of attention and the executors that run them: candidates, score, normalize, sparsify ->
AttentionGraph.
"""

from graphformer.attention.attend import attend
from graphformer.attention.build import attention_graph
from graphformer.attention.candidates import All, Causal, Edges, Keep, Packed, Pairs, Rule, Window
from graphformer.attention.merged import merged_graph
from graphformer.attention.normalizers import Identity, ReLU, Sigmoid, Softmax
from graphformer.attention.plans import Plan
from graphformer.attention.reweigh import NormalizeWeights, Reweigh
from graphformer.attention.scores import Differential, Pairwise, ScaledDotProduct, Score
from graphformer.attention.sparsifiers import Sparsifier, Threshold, TopFraction, TopK

__all__ = [
    "All",
    "Causal",
    "Differential",
    "Edges",
    "Identity",
    "Keep",
    "NormalizeWeights",
    "Packed",
    "Pairs",
    "Pairwise",
    "Plan",
    "ReLU",
    "Reweigh",
    "Rule",
    "ScaledDotProduct",
    "Score",
    "Sigmoid",
    "Softmax",
    "Sparsifier",
    "Threshold",
    "TopFraction",
    "TopK",
    "Window",
    "attend",
    "attention_graph",
    "merged_graph",
]
