"""graphformer: an attention head is a graph.

The public names below are imported on first use, so that ``import graphformer`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphformer import _auto

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphformer import attention, backends, datasets, inspect, models, nn, testing, training
    from graphformer.attention import Edges, Threshold, TopK, attention_graph
    from graphformer.backends import aggregate
    from graphformer.errors import MissingExtra
    from graphformer.graph import AttentionGraph
    from graphformer.models import (
        GraphformerConfig,
        GraphformerForCausalLM,
        GraphformerModel,
        count_parameters,
        parameter_matched,
    )

_HOME = {
    "AttentionGraph": "graph",
    "Edges": "attention",
    "GraphformerConfig": "models",
    "GraphformerForCausalLM": "models",
    "GraphformerModel": "models",
    "MissingExtra": "errors",
    "Threshold": "attention",
    "TopK": "attention",
    "aggregate": "backends",
    "attention_graph": "attention",
    "count_parameters": "models",
    "parameter_matched": "models",
}
_MODULES = ("attention", "backends", "datasets", "inspect", "models", "nn", "testing", "training")

__all__ = [
    "AttentionGraph",
    "Edges",
    "GraphformerConfig",
    "GraphformerForCausalLM",
    "GraphformerModel",
    "MissingExtra",
    "Threshold",
    "TopK",
    "aggregate",
    "attention",
    "attention_graph",
    "backends",
    "count_parameters",
    "datasets",
    "inspect",
    "models",
    "nn",
    "parameter_matched",
    "testing",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"graphformer.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"graphformer.{name}")
    else:
        raise AttributeError(f"module 'graphformer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_auto.register()
