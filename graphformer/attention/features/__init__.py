"""What a node sends: its slice of the hidden state, or a projection. One method, one file."""

from graphformer.attention.features.base import Features, Projection, Slice

__all__ = ["Features", "Projection", "Slice"]
