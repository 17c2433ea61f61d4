"""Slot 4, sparsify: which weights stay as edges, one receiver's row at a time. One method, one
file.

None of them looks at the total length, so a prefix keeps the edges of the full sequence.
"""

from graphformer.attention.slot import trainable
from graphformer.attention.sparsifiers.base import Both, Sparsifier, check, from_spec
from graphformer.attention.sparsifiers.curves import CURVES
from graphformer.attention.sparsifiers.edge_mask import EdgeMask
from graphformer.attention.sparsifiers.extra_edges import ExtraEdges
from graphformer.attention.sparsifiers.normalize_weights import NormalizeWeights
from graphformer.attention.sparsifiers.reweigh import Reweigh
from graphformer.attention.sparsifiers.threshold import Threshold
from graphformer.attention.sparsifiers.top_fraction import TopFraction
from graphformer.attention.sparsifiers.top_k import TopK

__all__ = [
    "CURVES",
    "Both",
    "ExtraEdges",
    "NormalizeWeights",
    "Reweigh",
    "Sparsifier",
    "Threshold",
    "TopFraction",
    "TopK",
    "check",
    "from_spec",
    "trainable",
]
