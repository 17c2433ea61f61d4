"""The slots of attention and the executors that run them: candidates, score, normalize, sparsify ->
AttentionGraph.
"""

from graphformer.attention.attend import attend
from graphformer.attention.build import attention_graph
from graphformer.attention.candidates import (
    All,
    Causal,
    Edges,
    Given,
    Keep,
    Packed,
    PerHead,
    Rule,
    Window,
)
from graphformer.attention.executors.merged import merged_graph
from graphformer.attention.executors.plans import Plan
from graphformer.attention.feed_forwards import FeedForward
from graphformer.attention.head import Compute, Head
from graphformer.attention.normalizers import Identity, Normalizer, ReLU, Sigmoid, Softmax
from graphformer.attention.operators import EdgeMessages, Operator
from graphformer.attention.pairs import Block, Listed, Pairs
from graphformer.attention.relations import (
    Chain,
    EdgeColumns,
    EdgeTypes,
    Neighbours,
    Relation,
    Repeats,
)
from graphformer.attention.scores import (
    Differential,
    Pairwise,
    PerHeadScore,
    ScaledDotProduct,
    Score,
)
from graphformer.attention.sparsifiers import (
    NormalizeWeights,
    Reweigh,
    Sparsifier,
    Threshold,
    TopFraction,
    TopK,
)

__all__ = [
    "All",
    "Block",
    "Causal",
    "Chain",
    "Compute",
    "Differential",
    "EdgeColumns",
    "EdgeMessages",
    "EdgeTypes",
    "Edges",
    "FeedForward",
    "Given",
    "Head",
    "Identity",
    "Keep",
    "Listed",
    "Neighbours",
    "NormalizeWeights",
    "Normalizer",
    "Operator",
    "Packed",
    "Pairs",
    "Pairwise",
    "PerHead",
    "PerHeadScore",
    "Plan",
    "ReLU",
    "Relation",
    "Repeats",
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
