"""Pruning by trained masks of heads, layers, weights and edges, to a smaller model."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "ConcreteMask": "masks",
    "Pruner": "pruner",
    "PruningCallback": "pruner",
    "cubic_sparsity": "masks",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
