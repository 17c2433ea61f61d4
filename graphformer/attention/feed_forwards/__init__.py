"""The feed-forward of a block; some send their hidden units over the heads' graphs. One method, one
file.
"""

from graphformer.attention.feed_forwards.base import FeedForward, feed_forward_for
from graphformer.attention.feed_forwards.gated import GatedMLP
from graphformer.attention.feed_forwards.halfway import HalfwayFeedForward
from graphformer.attention.feed_forwards.multi_aggregate import MultiAggregateFeedForward
from graphformer.attention.feed_forwards.multi_hop import MultiHopFeedForward

__all__ = [
    "FeedForward",
    "GatedMLP",
    "HalfwayFeedForward",
    "MultiAggregateFeedForward",
    "MultiHopFeedForward",
    "feed_forward_for",
]
