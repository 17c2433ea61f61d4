"""Layers: hidden states in, hidden states out."""

from typing import TYPE_CHECKING

from graphformer._lazy import lazy
from graphformer.attention.operators import GINOperator, HeadMLP, Operator, PNAOperator, SumOperator
from graphformer.attention.scores import DifferentialScoring, PairwiseScoring
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.initial_residual import InitialResidual
from graphformer.nn.mlp import GatedMLP
from graphformer.nn.pointers import pointed, pointer_graph, pointer_loss
from graphformer.nn.presets import GINAttention, PNAAttention, SumAttention
from graphformer.nn.relation_messages import RelationMessages
from graphformer.nn.rope import rotary_embeddings, rotate
from graphformer.nn.sparse_gin import SparseGIN, self_loops
from graphformer.nn.tokens import GraphAttention

if TYPE_CHECKING:
    from graphformer.nn.attention_conv import AttentionConv
    from graphformer.nn.conv import GINAttentionConv, PNAAttentionConv, SumAttentionConv
    from graphformer.nn.transforms import AddStructure

# What takes PyG, which is slow to import and which language models do without.
_HOME = {
    "AddStructure": "transforms",
    "AttentionConv": "attention_conv",
    "GINAttentionConv": "conv",
    "PNAAttentionConv": "conv",
    "SumAttentionConv": "conv",
}
__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = [
    "AddStructure",
    "AttentionConv",
    "DifferentialScoring",
    "EdgeList",
    "GINAttention",
    "GINAttentionConv",
    "GINOperator",
    "GatedMLP",
    "GraphAttention",
    "HeadMLP",
    "InitialResidual",
    "Operator",
    "PNAAttention",
    "PNAAttentionConv",
    "PNAOperator",
    "PairwiseScoring",
    "RelationMessages",
    "SparseGIN",
    "SumAttention",
    "SumAttentionConv",
    "SumOperator",
    "pointed",
    "pointer_graph",
    "pointer_loss",
    "rotary_embeddings",
    "rotate",
    "self_loops",
]
