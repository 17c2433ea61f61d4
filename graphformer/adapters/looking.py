"""A look inside: the scale of each layer while it trains, and how many edges its graphs have."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from graphformer.adapters.layer import AdapterSettings, SparseGINLayer
from graphformer.adapters.part import AdapterPart
from graphformer.errors import whole
from graphformer.frozen import capture
from graphformer.frozen.capture import Attention


def adapted_layers(model: nn.Module) -> dict[str, SparseGINLayer]:
    """The layers with an adapter, by the name of the attention module, in the model's order.

    Raises:
        ValueError: the model has none.
    """
    found = [module for module in model.modules() if isinstance(module, SparseGINLayer)]
    if not found and any(isinstance(module, AdapterPart) for module in model.modules()):
        raise ValueError(
            f"the adapters of {type(model).__name__} are bottlenecks without messages: they have "
            "neither lambda nor a graph of the model's. Give SparseGINConfig(messages={})"
        )
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no Sparse-GIN adapter: add one with "
            "peft.get_peft_model(model, SparseGINConfig(...))"
        )
    return {
        layer.place.attention: layer for layer in sorted(found, key=lambda layer: layer.place.order)
    }


def scales(model: nn.Module, adapter_name: str = "default") -> dict[str, float]:
    """Lambda of each layer."""
    layers = adapted_layers(model)
    if not any(adapter_name in layer.sparsegin_scale for layer in layers.values()):
        known = sorted({name for layer in layers.values() for name in layer.sparsegin_scale})
        raise ValueError(f"the model has no adapter {adapter_name!r}; it has {', '.join(known)}")
    return {
        name: float(layer.sparsegin_scale[adapter_name].detach())
        for name, layer in layers.items()
        if adapter_name in layer.sparsegin_scale
    }


class _Counter:
    """Hears what one adapter's layer hears in the thread that made it, and counts the edges."""

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings, self.edges, self.tokens = settings, 0, 0
        self.thread = threading.get_ident()

    def hear(self, attention: Attention) -> None:
        if threading.get_ident() != self.thread:
            return
        graph = self.settings.graph(attention)
        self.edges += graph.num_edges
        self.tokens += attention.query.shape[0] * attention.query.shape[2]


@torch.no_grad()
def edges_per_token(
    model: nn.Module, adapter_name: str = "default", **inputs: Any
) -> dict[str, float]:
    """Edges into a token (padding included), the mean of each layer's graphs on one batch; of all
    heads where each has a graph of its own.

    Args:
        model: a model with a Sparse-GIN adapter.
        inputs: what the model is called with.
    """
    counters = {
        name: (layer, _Counter(layer.settings[adapter_name]))
        for name, layer in adapted_layers(model).items()
        if adapter_name in layer.settings
    }
    for layer, counter in counters.values():
        capture.listen(layer.place.caller, counter)
    try:
        model(**inputs)
    finally:
        for layer, counter in counters.values():
            capture.ignore(layer.place.caller, counter)
    return {name: counter.edges / max(counter.tokens, 1) for name, (_, counter) in counters.items()}


class LambdaRecorder(TrainerCallback):
    """Keeps lambda of every layer while a Trainer runs (the paper's figures 10 and 11; see
    :func:`graphformer.inspect.plot_lambda`).

    Attributes:
        history: ``{"layers": names, "steps": [0, ...], "values": one list a step, one number a
            layer}``; plain values, ready for JSON. Empty where the model has no Sparse-GIN adapter.
    """

    def __init__(self, every: int = 10, adapter_name: str = "default") -> None:
        if whole("every", every, 0) < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.every, self.adapter_name = every, adapter_name
        self.history: dict[str, list[Any]] = {"layers": [], "steps": [], "values": []}

    def _record(self, model: nn.Module, step: int) -> None:
        if self.history["steps"] and self.history["steps"][-1] == step:
            return
        if not any(isinstance(module, SparseGINLayer) for module in model.modules()):
            return
        found = scales(model, self.adapter_name)
        self.history["layers"] = list(found)
        self.history["steps"].append(step)
        self.history["values"].append([round(value, 6) for value in found.values()])

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self._record(model, state.global_step)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step % self.every == 0:
            self._record(model, state.global_step)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self._record(model, state.global_step)
