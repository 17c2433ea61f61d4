"""Sparse-GIN as an adapter for pre-trained transformers: ``peft.get_peft_model(model,
graphformer.SparseGINConfig(...))``.

Importing this package makes ``SPARSEGIN`` known to PEFT, so that ``PeftModel.from_pretrained`` and
the ``AutoPeftModel`` classes read saved adapters. ``import graphformer`` alone is enough where PEFT
is used, before or after it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphformer.adapters import registration
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.layer import SparseGINLayer
from graphformer.adapters.matching import count_trainable, match_parameters
from graphformer.adapters.tuner import SparseGINModel
from graphformer.frozen.anatomy import UnsupportedModel

if TYPE_CHECKING:
    from graphformer.adapters.looking import LambdaRecorder, edges_per_token, scales

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

_LATER = ("LambdaRecorder", "edges_per_token", "scales")
"""What needs transformers' Trainer. Where it is the Trainer that imports PEFT, as a part of its own
import, it is not there yet when PEFT has to know the adapters.
"""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module("graphformer.adapters.looking"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
