"""Which executor and backend run, and why: the plan of a call, and a way to watch the plans go
by.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Plan:
    """Which executor and backend run, and why; ``str(plan)`` reads as a sentence."""

    executor: str
    backend: str
    reason: str

    def __str__(self) -> str:
        return f"executor {self.executor}, backend {self.backend}: {self.reason}"


@dataclass
class Witnessed:
    """A plan that was carried out, and the layer where it told; functions have none."""

    plan: Plan
    layer: nn.Module | None = None


_witness: ContextVar[list[Witnessed] | None] = ContextVar("graphformer_plans", default=None)


@contextmanager
def witnessed() -> Iterator[list[Witnessed]]:
    """The plans made inside, in their order."""
    plans: list[Witnessed] = []
    token = _witness.set(plans)
    try:
        yield plans
    finally:
        _witness.reset(token)


def witness(plan: Plan, layer: nn.Module | None = None) -> None:
    """Called with every plan that is carried out."""
    plans = _witness.get()
    if plans is not None:
        plans.append(Witnessed(plan, layer))
