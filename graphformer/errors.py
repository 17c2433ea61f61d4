"""Errors of this library and the one way to import an optional package."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType


class MissingExtra(ImportError):
    """An optional package is not installed. The text names the extra that brings it."""


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
