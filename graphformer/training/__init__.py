"""Training of language models with transformers' Trainer. Nothing is imported before one of the names is used."""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "TrainingResult": "language",
    "train_language_model": "language",
    "checkpoint_problems": "checkpoints",
    "latest_checkpoint": "checkpoints",
    "model_problems": "checkpoints",
    "require_complete": "checkpoints",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
