"""Functions that torch.compile leaves out of its graph, and why; and whether it exports one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def exporting() -> bool:
    """Whether ``torch.export`` traces; torch 2.6 cannot tell it from compiling."""
    return getattr(torch.compiler, "is_exporting", bool)()


def uncompiled(reason: str) -> Callable[[F], F]:
    """``torch.compiler.disable``, and what ``fullgraph=True`` tells (torch 2.6 tells nothing)."""
    takes_reason = "reason" in inspect.signature(torch.compiler.disable).parameters
    told: dict[str, Any] = {"reason": reason} if takes_reason else {}

    def apart(function: F) -> F:
        return torch.compiler.disable(function, **told)

    return apart
