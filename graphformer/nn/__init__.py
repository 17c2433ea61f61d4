"""Layers: hidden states in, hidden states out."""

from graphformer.nn.attention import GraphAttention, Operator
from graphformer.nn.gin import GINAttention, GINOperator
from graphformer.nn.mlp import GatedMLP, HeadMLP
from graphformer.nn.plain import SumAttention, SumOperator
from graphformer.nn.pna import PNAAttention, PNAOperator
from graphformer.nn.rope import rotary_embeddings, rotate
from graphformer.nn.scoring import DifferentialScoring, PairwiseScoring
from graphformer.nn.sparse_gin import SparseGIN, self_loops

__all__ = [
    "DifferentialScoring",
    "GINAttention",
    "GINOperator",
    "GatedMLP",
    "GraphAttention",
    "HeadMLP",
    "Operator",
    "PNAAttention",
    "PNAOperator",
    "PairwiseScoring",
    "SparseGIN",
    "SumAttention",
    "SumOperator",
    "rotary_embeddings",
    "rotate",
    "self_loops",
]
