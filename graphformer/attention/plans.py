"""Which executor and backend run, and why: the plan of a call, and ``explain``, which shows the plans of a whole model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_witness: ContextVar[list[Plan] | None] = ContextVar("graphformer_plans", default=None)


@dataclass(frozen=True)
class Plan:
    """Which executor and backend run, and why; ``str(plan)`` reads as a sentence."""

    executor: str
    backend: str
    reason: str

    def __str__(self) -> str:
        return f"executor {self.executor}, backend {self.backend}: {self.reason}"


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
    """Call ``module(*args, **kwargs)`` once and tell how each of its attention layers was computed, and why.

    >>> print(gf.explain(model, input_ids))
    model.layers.0.self_attn: executor flash, backend auto: the operator needs only weighted sums, so no edges are built

    The module is left as it was. Training mode matters as little as the weights: only shapes, slots and arguments decide.

    Raises:
        ValueError: no attention layer of this library was called.
    """
    from graphformer.nn.attention import GraphAttention

    found: list[Explanation] = []
    names: dict[nn.Module, str] = {layer: name for name, layer in module.named_modules() if isinstance(layer, GraphAttention)}
    with witnessed() as plans:

        def called(layer: nn.Module, *_: Any) -> None:
            found.extend(Explanation(names[layer], plan) for plan in plans)
            plans.clear()

        hooks = [layer.register_forward_hook(called) for layer in names]
        try:
            module(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    if not found:
        raise ValueError(f"{type(module).__name__} called no attention layer of graphformer: there is nothing to explain")
    return Explanations(found)


@contextmanager
def witnessed() -> Iterator[list[Plan]]:
    """The plans made inside, in their order."""
    plans: list[Plan] = []
    token = _witness.set(plans)
    try:
        yield plans
    finally:
        _witness.reset(token)


def witness(plan: Plan) -> None:
    """Called with every plan that is carried out."""
    plans = _witness.get()
    if plans is not None:
        plans.append(plan)
