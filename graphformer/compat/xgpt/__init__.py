"""Reading the paper's own code (arXiv 2501.02393, the package ``xgpt``): its settings, its
parameters, its threshold modes.

What is read computes what the reference computes, without its faults; some of them can be asked for
as ``quirks``.
"""

from graphformer.compat.xgpt.adapter import (
    adapter_state,
    initial_scale,
    place,
    sparse_gin,
    streamed,
)
from graphformer.compat.xgpt.adjacency import LearnedMerge, construct_adjacency
from graphformer.compat.xgpt.checkpoint import adapter_config, load_adapter
from graphformer.compat.xgpt.coarse import (
    CoarseAttention,
    InterpolatedAttention,
    load_coarse_attention,
)
from graphformer.compat.xgpt.feed_forwards import FEED_FORWARDS, load_feed_forward
from graphformer.compat.xgpt.layers import attention, load_attention
from graphformer.compat.xgpt.model import config, load_decoder_layer, load_folder, load_model
from graphformer.compat.xgpt.settings import Settings, read_settings
from graphformer.compat.xgpt.slots import QUIRKS, sparsifier_spec
from graphformer.compat.xgpt.thresholds import MODES, ScaledTopK, threshold_spec

__all__ = [
    "FEED_FORWARDS",
    "MODES",
    "QUIRKS",
    "CoarseAttention",
    "InterpolatedAttention",
    "LearnedMerge",
    "ScaledTopK",
    "Settings",
    "adapter_config",
    "adapter_state",
    "attention",
    "config",
    "construct_adjacency",
    "initial_scale",
    "load_adapter",
    "load_attention",
    "load_coarse_attention",
    "load_decoder_layer",
    "load_feed_forward",
    "load_folder",
    "load_model",
    "place",
    "read_settings",
    "sparse_gin",
    "sparsifier_spec",
    "streamed",
    "threshold_spec",
]
