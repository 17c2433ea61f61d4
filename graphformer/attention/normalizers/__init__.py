"""Slot 3, normalize: logits to weights, one receiver's row at a time. One method, one file."""

from graphformer.attention.normalizers.base import Normalizer, resolve
from graphformer.attention.normalizers.distance_scaled import DistanceScaled
from graphformer.attention.normalizers.entmax import Entmax15, Sparsemax
from graphformer.attention.normalizers.fourier import Fourier
from graphformer.attention.normalizers.identity import Identity
from graphformer.attention.normalizers.regions import Regions
from graphformer.attention.normalizers.relu import ReLU
from graphformer.attention.normalizers.sigmoid import Sigmoid
from graphformer.attention.normalizers.sigmoid_per_head import SigmoidPerHead
from graphformer.attention.normalizers.softmax import Softmax
from graphformer.attention.normalizers.softmax_sink import SoftmaxSink

__all__ = [
    "DistanceScaled",
    "Entmax15",
    "Fourier",
    "Identity",
    "Normalizer",
    "ReLU",
    "Regions",
    "Sigmoid",
    "SigmoidPerHead",
    "Softmax",
    "SoftmaxSink",
    "Sparsemax",
    "resolve",
]
