"""What runs on the graph of a head. One method, one file."""

from graphformer.attention.operators.base import EdgeMessages, Operator, OwnAdded, OwnScaled
from graphformer.attention.operators.gin import GINOperator
from graphformer.attention.operators.gine import GINEOperator
from graphformer.attention.operators.head_mlp import HeadMLP
from graphformer.attention.operators.merged_heads import MergedHeadsOperator
from graphformer.attention.operators.mixture import MixtureOperator
from graphformer.attention.operators.multi_hop import MultiHopOperator
from graphformer.attention.operators.pna import PNAOperator
from graphformer.attention.operators.projected_self import ProjectedSelfOperator
from graphformer.attention.operators.rounds import RoundsOperator
from graphformer.attention.operators.sinc import SincOperator
from graphformer.attention.operators.sum import SumOperator

__all__ = [
    "EdgeMessages",
    "GINEOperator",
    "GINOperator",
    "HeadMLP",
    "MergedHeadsOperator",
    "MixtureOperator",
    "MultiHopOperator",
    "Operator",
    "OwnAdded",
    "OwnScaled",
    "PNAOperator",
    "ProjectedSelfOperator",
    "RoundsOperator",
    "SincOperator",
    "SumOperator",
]
