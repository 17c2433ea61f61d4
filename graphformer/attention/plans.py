"""Which executor and backend run, and why: the plan of a call, and a way to watch the plans go by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_witness: ContextVar[list[Plan] | None] = ContextVar("graphformer_plans", default=None)


@dataclass(frozen=True)
class Plan:
    """Which executor and backend run, and why; ``str(plan)`` reads as a sentence."""

    executor: str
    backend: str
    reason: str

    def __str__(self) -> str:
        return f"executor {self.executor}, backend {self.backend}: {self.reason}"


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
