"""Slot 3, normalize: logits to weights, one receiver's row at a time. One method, one file."""

from graphformer.attention.normalizers.base import Normalizer, resolve
from graphformer.attention.normalizers.identity import Identity
from graphformer.attention.normalizers.relu import ReLU
from graphformer.attention.normalizers.sigmoid import Sigmoid
from graphformer.attention.normalizers.sigmoid_per_head import SigmoidPerHead
from graphformer.attention.normalizers.softmax import Softmax

__all__ = [
    "Identity",
    "Normalizer",
    "ReLU",
    "Sigmoid",
    "SigmoidPerHead",
    "Softmax",
    "resolve",
]
