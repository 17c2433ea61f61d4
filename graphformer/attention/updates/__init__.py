"""What becomes of the heads' outputs: mixing, gates, an output map. One method, one file."""

from graphformer.attention.updates.base import Concat, OutputMap, Update

__all__ = ["Concat", "OutputMap", "Update"]
