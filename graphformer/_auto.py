"""Registers the models with transformers' Auto classes without importing transformers.

``import graphformer`` stays quick: transformers takes seconds to import, and those who use only graphs never need it. So the registration
waits until somebody imports the Auto classes; it happens at once where they are imported already.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto.modeling_auto"


class _AfterImport:
    """Import hook that runs once, just after the Auto classes' module."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            importlib.import_module("graphformer.models")

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Now where the Auto classes are imported, otherwise as soon as they are."""
    if _AUTO in sys.modules:
        importlib.import_module("graphformer.models")
    else:
        sys.meta_path.insert(0, _AfterImport())
