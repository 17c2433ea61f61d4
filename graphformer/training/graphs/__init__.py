"""Graph models with transformers' Trainer."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "GraphModel": "model",
    "GraphTrainer": "trainer",
    "GraphTrainingResult": "trainer",
    "NodeBudgetSampler": "batches",
    "PredictionTable": "tables",
    "Scaling": "scaling",
    "cross_validate": "folds",
    "featuriser_of": "trainer",
    "graphs_of_files": "tables",
    "load_graph_model": "model",
    "prediction_table": "tables",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
