"""GraphTransformer and its parts."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "GraphTransformer": "transformer",
    "GraphTransformerOutput": "base",
    "Target": "targets",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
