"""The feed-forward and the heads' MLPs under the names they have in ``gf.nn``."""

from __future__ import annotations

from graphformer.attention.feed_forwards.gated import GatedMLP
from graphformer.attention.operators.head_mlp import HeadMLP
from graphformer.errors import probability

__all__ = ["GatedMLP", "HeadMLP", "probability"]
