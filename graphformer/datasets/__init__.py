"""Data sets. Each module is imported when one of its names is first used, because the domain libraries are optional."""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "TextDataset": "text",
    "collate_windows": "text",
    "embedded_text": "text",
    "read_text": "text",
    "split": "text",
    "build_tokenizer": "tokenizers",
    "encode": "tokenizers",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
