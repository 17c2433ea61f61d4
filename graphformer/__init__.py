"""graphformer: an attention head is a graph.

The public names below are imported on first use, so that ``import graphformer`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphformer import _auto, _moved
from graphformer._lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graphformer import (
        adapters,
        attention,
        backends,
        datasets,
        inspect,
        models,
        nn,
        testing,
        training,
    )
    from graphformer.adapters import SparseGINConfig, match_parameters
    from graphformer.attention import (
        Chain,
        Compute,
        EdgeColumns,
        Edges,
        EdgeTypes,
        Head,
        Neighbours,
        PerHead,
        Repeats,
        Threshold,
        TopK,
        attention_graph,
    )
    from graphformer.backends import aggregate
    from graphformer.errors import MissingExtra
    from graphformer.graph import AttentionGraph
    from graphformer.inspect import explain
    from graphformer.models import (
        GraphformerConfig,
        GraphformerForCausalLM,
        GraphformerModel,
        GraphTransformer,
        count_parameters,
        parameter_matched,
    )

_HOME = {
    "AttentionGraph": "graph",
    "Chain": "attention",
    "Compute": "attention",
    "EdgeColumns": "attention",
    "EdgeTypes": "attention",
    "Edges": "attention",
    "GraphTransformer": "models",
    "GraphformerConfig": "models",
    "GraphformerForCausalLM": "models",
    "GraphformerModel": "models",
    "Head": "attention",
    "MissingExtra": "errors",
    "Neighbours": "attention",
    "PerHead": "attention",
    "Repeats": "attention",
    "SparseGINConfig": "adapters",
    "Threshold": "attention",
    "TopK": "attention",
    "adapters": None,
    "aggregate": "backends",
    "attention": None,
    "attention_graph": "attention",
    "backends": None,
    "count_parameters": "models",
    "datasets": None,
    "explain": "inspect",
    "inspect": None,
    "match_parameters": "adapters",
    "models": None,
    "nn": None,
    "parameter_matched": "models",
    "testing": None,
    "training": None,
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)

_moved.lead_to_new_places()
_auto.register_config()
_auto.register_adapters()
_auto.register_graph()
