"""Whole models. Importing the settings alone does not import transformers' modelling code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphformer._lazy import lazy

if TYPE_CHECKING:
    from graphformer.models.configuration import GraphformerConfig
    from graphformer.models.graph import GraphTransformer
    from graphformer.models.graph_base import GraphTransformerOutput
    from graphformer.models.graph_parts import Target
    from graphformer.models.language import (
        GraphformerCausalLMOutput,
        GraphformerForCausalLM,
        GraphformerModel,
        GraphformerModelOutput,
        GraphformerPreTrainedModel,
    )
    from graphformer.models.twin import count_parameters, parameter_matched

_HOME = {
    "GraphTransformer": "graph",
    "GraphTransformerOutput": "graph_base",
    "GraphformerCausalLMOutput": "language",
    "GraphformerConfig": "configuration",
    "GraphformerForCausalLM": "language",
    "GraphformerModel": "language",
    "GraphformerModelOutput": "language",
    "GraphformerPreTrainedModel": "language",
    "Target": "graph_parts",
    "count_parameters": "twin",
    "parameter_matched": "twin",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
