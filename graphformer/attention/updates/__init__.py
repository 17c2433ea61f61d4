"""What becomes of the heads' outputs: mixing, gates, an output map. One method, one file."""

from graphformer.attention.updates.base import Concat, OutputMap, Update
from graphformer.attention.updates.channel_gate import ChannelGate
from graphformer.attention.updates.difference import PairedDifference
from graphformer.attention.updates.experts import Experts
from graphformer.attention.updates.gated import GatedHeads
from graphformer.attention.updates.head_norm import HeadNorm

__all__ = [
    "ChannelGate",
    "Concat",
    "Experts",
    "GatedHeads",
    "HeadNorm",
    "OutputMap",
    "PairedDifference",
    "Update",
]
