"""Training of language models and of graph models with transformers' Trainer. Nothing is imported
before one of the names is used.
"""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "TrainingResult": "language",
    "train_language_model": "language",
    "load_language_model": "saved_language",
    "checkpoint_problems": "checkpoints",
    "latest_checkpoint": "checkpoints",
    "model_problems": "checkpoints",
    "require_complete": "checkpoints",
    "SaveError": "saving",
    "GraphTrainer": "graphs",
    "GraphTrainingResult": "graphs",
    "cross_validate": "graph_folds",
    "GraphModel": "graph_model",
    "load_graph_model": "graph_model",
    "NodeBudgetSampler": "graph_batches",
    "Scaling": "graph_scaling",
    "featuriser_of": "graph_files",
    "graphs_of_files": "graph_files",
    "PredictionTable": "graph_tables",
    "prediction_table": "graph_tables",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
