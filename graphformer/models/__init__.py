"""Whole models."""

from graphformer.models.configuration import GraphformerConfig
from graphformer.models.language import (
    GraphformerCausalLMOutput,
    GraphformerForCausalLM,
    GraphformerModel,
    GraphformerModelOutput,
    GraphformerPreTrainedModel,
)
from graphformer.models.twin import count_parameters, parameter_matched

__all__ = [
    "GraphformerCausalLMOutput",
    "GraphformerConfig",
    "GraphformerForCausalLM",
    "GraphformerModel",
    "GraphformerModelOutput",
    "GraphformerPreTrainedModel",
    "count_parameters",
    "parameter_matched",
    "register_auto_classes",
]


def register_auto_classes() -> None:
    """Make AutoConfig, AutoModel and AutoModelForCausalLM know ``model_type`` "graphformer"; more than once does no harm."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    AutoConfig.register("graphformer", GraphformerConfig, exist_ok=True)
    AutoModel.register(GraphformerConfig, GraphformerModel, exist_ok=True)
    AutoModelForCausalLM.register(GraphformerConfig, GraphformerForCausalLM, exist_ok=True)


register_auto_classes()
