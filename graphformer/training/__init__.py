"""Training of language models with transformers' Trainer. Nothing is imported before one of the names is used."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "TrainingResult": "language",
    "train_language_model": "language",
    "checkpoint_problems": "checkpoints",
    "latest_checkpoint": "checkpoints",
    "model_problems": "checkpoints",
    "require_complete": "checkpoints",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
