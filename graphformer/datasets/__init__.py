"""Data sets. Each module is imported when one of its names is first used, because the domain libraries are optional."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "TextDataset": "text",
    "collate_windows": "text",
    "embedded_text": "text",
    "read_text": "text",
    "split": "text",
    "build_tokenizer": "tokenizers",
    "encode": "tokenizers",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
