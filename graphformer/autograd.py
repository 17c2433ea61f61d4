"""The base of this library's autograd functions."""

from __future__ import annotations

import inspect
from typing import Any

import torch


class Function(torch.autograd.Function):
    """PyTorch's, with the signature of ``forward`` kept beside it.

    A function with ``setup_context`` is asked for that signature at every call, which takes longer
    than the sums of a small graph. ``inspect.signature`` looks for a kept one first.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        forward: Any = cls.forward
        forward.__signature__ = inspect.signature(forward)
