"""Sparse-GIN as an adapter for pre-trained transformers: ``peft.get_peft_model(model,
graphformer.SparseGINConfig(...))``.

Importing this package makes ``SPARSEGIN`` known to PEFT, so that ``PeftModel.from_pretrained`` and
the ``AutoPeftModel`` classes read saved adapters. ``import graphformer`` alone is enough where PEFT
is used, before or after it.
"""

from graphformer.adapters import registration
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.layer import SparseGINLayer
from graphformer.adapters.looking import LambdaRecorder, edges_per_token, scales
from graphformer.adapters.matching import count_trainable, match_parameters
from graphformer.adapters.tuner import SparseGINModel
from graphformer.frozen.anatomy import UnsupportedModel

registration.register(SparseGINConfig, SparseGINModel)

__all__ = [
    "LambdaRecorder",
    "SparseGINConfig",
    "SparseGINLayer",
    "SparseGINModel",
    "UnsupportedModel",
    "count_trainable",
    "edges_per_token",
    "match_parameters",
    "scales",
]
