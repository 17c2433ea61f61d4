"""The slots of attention and the executors that run them: candidates, score, normalize, sparsify -> AttentionGraph."""

from graphformer.attention.attend import attend
from graphformer.attention.build import attention_graph
from graphformer.attention.candidates import All, Causal, Edges, Keep, Packed, Pairs, Rule, Window
from graphformer.attention.merged import merged_graph
from graphformer.attention.normalizers import Identity, ReLU, Sigmoid, Softmax
from graphformer.attention.plans import Plan
from graphformer.attention.scores import ScaledDotProduct
from graphformer.attention.sparsifiers import Sparsifier, Threshold, TopK

__all__ = [
    "All",
    "Causal",
    "Edges",
    "Identity",
    "Keep",
    "Packed",
    "Pairs",
    "Plan",
    "ReLU",
    "Rule",
    "ScaledDotProduct",
    "Sigmoid",
    "Softmax",
    "Sparsifier",
    "Threshold",
    "TopK",
    "Window",
    "attend",
    "attention_graph",
    "merged_graph",
]
