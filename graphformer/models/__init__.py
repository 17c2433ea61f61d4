"""Whole models. Importing the settings alone does not import transformers' modelling code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphformer._lazy import lazy

if TYPE_CHECKING:
    from graphformer.models.graphs.base import GraphTransformerOutput
    from graphformer.models.graphs.targets import Target
    from graphformer.models.graphs.transformer import GraphTransformer
    from graphformer.models.language.configuration import GraphformerConfig
    from graphformer.models.language.model import (
        GraphformerCausalLMOutput,
        GraphformerForCausalLM,
        GraphformerModel,
        GraphformerModelOutput,
        GraphformerPreTrainedModel,
    )
    from graphformer.models.language.twin import count_parameters, parameter_matched
    from graphformer.models.language.upcycling import upcycle

_HOME = {
    "GraphTransformer": "graphs.transformer",
    "GraphTransformerOutput": "graphs.base",
    "GraphformerCausalLMOutput": "language.model",
    "GraphformerConfig": "language.configuration",
    "GraphformerForCausalLM": "language.model",
    "GraphformerModel": "language.model",
    "GraphformerModelOutput": "language.model",
    "GraphformerPreTrainedModel": "language.model",
    "Target": "graphs.targets",
    "count_parameters": "language.twin",
    "parameter_matched": "language.twin",
    "upcycle": "language.upcycling",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
