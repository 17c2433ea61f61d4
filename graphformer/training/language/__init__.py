"""Language models with transformers' Trainer."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "Evaluation": "evaluation",
    "TrainingResult": "train",
    "evaluate": "evaluation",
    "load_language_model": "saved",
    "train_language_model": "train",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
