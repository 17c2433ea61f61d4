"""Training of language models and of graph models with transformers' Trainer. Nothing is imported
before one of the names is used.
"""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "Evaluation": "language.evaluation",
    "evaluate": "language.evaluation",
    "TrainingResult": "language.train",
    "train_language_model": "language.train",
    "load_language_model": "language.saved",
    "checkpoint_problems": "checkpoints",
    "latest_checkpoint": "checkpoints",
    "model_problems": "checkpoints",
    "require_complete": "checkpoints",
    "SaveError": "saving",
    "ConcreteMask": "pruning.masks",
    "cubic_sparsity": "pruning.masks",
    "Pruner": "pruning.pruner",
    "PruningCallback": "pruning.pruner",
    "cumulative_influence": "objectives.edge_contrast",
    "edge_contrast": "objectives.edge_contrast",
    "soft_assignments": "objectives.cluster_refinement",
    "sharpened": "objectives.cluster_refinement",
    "cluster_refinement": "objectives.cluster_refinement",
    "graph_distillation": "objectives.graph_distillation",
    "IndexDivergence": "objectives.index_divergence",
    "index_divergence": "objectives.index_divergence",
    "TypedSubgraphs": "objectives.typed_negatives",
    "Swapped": "objectives.typed_negatives",
    "typed_subgraphs": "objectives.typed_negatives",
    "swapped_nodes": "objectives.typed_negatives",
    "subgraph_discrimination": "objectives.typed_negatives",
    "node_discrimination": "objectives.typed_negatives",
    "GraphTrainer": "graphs.trainer",
    "GraphTrainingResult": "graphs.trainer",
    "cross_validate": "graphs.folds",
    "GraphModel": "graphs.model",
    "load_graph_model": "graphs.model",
    "NodeBudgetSampler": "graphs.batches",
    "Scaling": "graphs.scaling",
    "featuriser_of": "graphs.trainer",
    "graphs_of_files": "graphs.tables",
    "PredictionTable": "graphs.tables",
    "prediction_table": "graphs.tables",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
