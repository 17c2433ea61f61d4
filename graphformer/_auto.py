"""Registers the models with transformers' Auto classes without importing transformers.

``import graphformer`` stays quick: transformers takes seconds to import, and those who use only graphs never need it. So the settings are
registered when somebody imports ``AutoConfig``, at once where it is imported already. The models follow with the first settings that are
made (:func:`register_models`): the Auto classes look a model up by the class of its settings, so none can be asked for earlier.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"


def register_config() -> None:
    """Now where AutoConfig is imported, otherwise as soon as it is."""
    if _AUTO_CONFIG not in sys.modules:
        sys.meta_path.insert(0, _AfterAutoConfig())
        return
    from transformers.models.auto.configuration_auto import AutoConfig

    from graphformer.models.configuration import GraphformerConfig

    AutoConfig.register("graphformer", GraphformerConfig, exist_ok=True)


@cache
def register_models() -> None:
    """Make AutoModel and AutoModelForCausalLM know our models."""
    from transformers import AutoModel, AutoModelForCausalLM

    from graphformer.models.configuration import GraphformerConfig
    from graphformer.models.language import GraphformerForCausalLM, GraphformerModel

    AutoModel.register(GraphformerConfig, GraphformerModel, exist_ok=True)
    AutoModelForCausalLM.register(GraphformerConfig, GraphformerForCausalLM, exist_ok=True)


class _AfterAutoConfig:
    """Import hook that registers the settings once, just after AutoConfig's module was imported."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _AUTO_CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            register_config()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
