"""Registers the models with transformers' Auto classes, and the adapters with PEFT, without
importing either.

``import graphformer`` stays quick: transformers takes seconds to import, and those who use only
graphs never need it. So the settings are registered when somebody imports ``AutoConfig``, at once
where it is imported already. The models follow with the first settings that are made
(:func:`register_models`): the Auto classes look a model up by the class of its settings, so none
can be asked for earlier. Adapters are registered when somebody imports PEFT, and the graph with
``torch.load`` when somebody imports torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"


def register_config() -> None:
    """Now where AutoConfig is imported, otherwise as soon as it is."""
    if _AUTO_CONFIG not in sys.modules:
        sys.meta_path.insert(0, _After(_AUTO_CONFIG, register_config))
        return
    from transformers.models.auto.configuration_auto import AutoConfig

    from graphformer.models.language.configuration import GraphformerConfig

    AutoConfig.register("graphformer", GraphformerConfig, exist_ok=True)


@cache
def register_models() -> None:
    """Make AutoModel and AutoModelForCausalLM know our models."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from graphformer.models.language.configuration import GraphformerConfig
    from graphformer.models.language.model import GraphformerForCausalLM, GraphformerModel

    AutoModel.register(GraphformerConfig, GraphformerModel, exist_ok=True)
    AutoModelForCausalLM.register(GraphformerConfig, GraphformerForCausalLM, exist_ok=True)
    # by this name Trainer knows that a label is the next token's, under label_smoothing_factor
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["graphformer"] = GraphformerForCausalLM.__name__


def register_adapters() -> None:
    """Now where PEFT is imported, otherwise as soon as it is."""
    if "peft" not in sys.modules:
        sys.meta_path.insert(0, _After("peft", register_adapters))
        return
    try:
        importlib.import_module("graphformer.adapters")
    except ImportError as error:  # a PEFT too old for them must still be usable
        warnings.warn(
            f"PEFT does not know graphformer's adapters, so it cannot load a saved one: {error}. "
            "Where you need them, pip install --upgrade peft",
            stacklevel=2,
        )


def register_graph() -> None:
    """Let ``torch.load`` take an AttentionGraph under ``weights_only``: now where torch is
    imported, otherwise as soon as it is.
    """
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _After("torch", register_graph))
        return
    importlib.import_module("graphformer.graph")


class _After:
    """Import hook that does something once, just after a module was imported. To be asked where the
    module is does not count.
    """

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self.module, self.then, self.looking = module, then, False

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.module or self.looking:
            return None
        self.looking = True  # the others look
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.then()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
