"""explain: which executor and backend every attention layer of a model takes for given inputs, and
why.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphformer.attention.executors.plans import Plan, witnessed
from graphformer.nn.tokens import GraphAttention


@dataclass(frozen=True)
class Explanation:
    """One call of one attention layer; prints as a line."""

    layer: str
    plan: Plan

    def __str__(self) -> str:
        return f"{self.layer or 'the layer'}: {self.plan}"


class Explanations(tuple[Explanation, ...]):
    """All calls of one forward pass, in their order; prints as lines."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__


@torch.no_grad()
def explain(module: nn.Module, *args: Any, **kwargs: Any) -> Explanations:
    """Call ``module(*args, **kwargs)`` once and tell how each of its attention layers was computed,
    and why.

    >>> print(gf.explain(model, input_ids))
    model.layers.0.self_attn: executor flash, backend auto: the operator needs only weighted sums...
    >>> print(gf.explain(graph_transformer, batch))  # one line for each layer and level
    layers.0.blocks.0.conv: executor edges, backend torch: only the given edges are scored

    The module is left as it was. Training mode matters as little as the weights: only shapes, slots
    and arguments decide.

    Raises:
        ValueError: no attention layer of this library was called.
    """
    names: dict[nn.Module | None, str] = {layer: name for name, layer in module.named_modules()}
    here = threading.get_ident()
    with witnessed() as plans:

        def called(layer: nn.Module, *_: Any) -> None:
            # a call of another thread, which made none of these plans
            if threading.get_ident() != here:
                return
            for one in plans:
                # attend does not know who called it; the layers on given edges tell themselves
                if one.layer is None:
                    one.layer = layer

        hooks = [
            layer.register_forward_hook(called)
            for layer in names
            if isinstance(layer, GraphAttention)
        ]
        try:
            module(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    found = [Explanation(names[one.layer], one.plan) for one in plans if one.layer in names]
    if not found:
        raise ValueError(
            f"{type(module).__name__} called no attention layer of graphformer: there is nothing "
            "to explain"
        )
    return Explanations(found)
