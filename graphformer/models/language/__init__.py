"""The language model. Importing its settings alone does not import transformers' modelling code."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "GraphformerCausalLMOutput": "model",
    "GraphformerConfig": "configuration",
    "GraphformerDecoderLayer": "model",
    "GraphformerForCausalLM": "model",
    "GraphformerModel": "model",
    "GraphformerModelOutput": "model",
    "GraphformerPreTrainedModel": "model",
    "GraphformerRMSNorm": "model",
    "count_parameters": "twin",
    "parameter_matched": "twin",
    "upcycle": "upcycling",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
