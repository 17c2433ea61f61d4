"""Errors of this library and the one way to import an optional package."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from types import ModuleType


class MissingExtra(ImportError):
    """An optional package is not installed. The text names the extra that brings it."""


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise TypeError where ``value`` is no whole number, and ValueError where it is below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_number(name: str, value: object, *, above: float | None = None, least: float | None = None) -> None:
    """Raise TypeError where ``value`` is no number, and ValueError where it is not finite or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
    if not math.isfinite(value) or (above is not None and value <= above) or (least is not None and value < least):
        raise ValueError(f"{name} must be a finite number{bound}, got {value}")


def require_flag(name: str, value: object) -> None:
    """Raise TypeError where ``value`` is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def require_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the known ones, where ``value`` is none of them."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional ``module``, or raise :class:`MissingExtra` that names the ``extra`` to install.

    Only the module's own absence counts: an installed module that fails to import shows its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{why} needs the package {module!r}, which is not installed. Install it with: pip install 'graphformer[{extra}]'"
        ) from error
