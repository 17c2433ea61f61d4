"""Functions that torch.compile leaves out of its graph, and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(reason: str) -> Callable[[F], F]:
    """``torch.compiler.disable``, and what ``fullgraph=True`` tells (torch 2.6 tells nothing)."""
    takes_reason = "reason" in inspect.signature(torch.compiler.disable).parameters
    told: dict[str, Any] = {"reason": reason} if takes_reason else {}

    def apart(function: F) -> F:
        return torch.compiler.disable(function, **told)

    return apart
