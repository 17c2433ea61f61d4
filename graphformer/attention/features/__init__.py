"""What a node sends: its slice of the hidden state, a projection, either mixed with what the first
layer sends. One method, one file.
"""

from graphformer.attention.features.base import Features, Projection, Slice
from graphformer.attention.features.value_residual import ValueResidual

__all__ = ["Features", "Projection", "Slice", "ValueResidual"]
