"""Windows of tokens to train language models on."""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "GSM8K": "gsm8k",
    "TextDataset": "windows",
    "build_tokenizer": "tokenizers",
    "collate_windows": "windows",
    "embedded_text": "windows",
    "encode": "tokenizers",
    "read_text": "windows",
    "split": "windows",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
