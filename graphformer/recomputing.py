"""Computing again in the backward pass what would take too much memory to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.checkpoint import checkpoint

from graphformer import finite

Result = TypeVar("Result")


def recomputed(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)``, whose intermediates are made again in the backward pass; it may be
    differentiated any number of times.

    ``torch.func`` has no hooks for that, so inside its transforms the function is simply called.
    """
    return (
        function(*arguments)
        if finite.transformed()
        else checkpoint(function, *arguments, use_reentrant=False)
    )
