"""Layers: hidden states in, hidden states out."""

from graphformer.nn.attention import GraphAttention, Operator
from graphformer.nn.gin import GINAttention, GINOperator
from graphformer.nn.mlp import GatedMLP, HeadMLP
from graphformer.nn.plain import SumAttention, SumOperator
from graphformer.nn.pna import PNAAttention, PNAOperator
from graphformer.nn.rope import rotary_embeddings, rotate

__all__ = [
    "GINAttention",
    "GINOperator",
    "GatedMLP",
    "GraphAttention",
    "HeadMLP",
    "Operator",
    "PNAAttention",
    "PNAOperator",
    "SumAttention",
    "SumOperator",
    "rotary_embeddings",
    "rotate",
]
