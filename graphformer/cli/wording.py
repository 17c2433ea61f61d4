"""Errors in the words of the command line: the library names arguments, a user knows options."""

from __future__ import annotations

import re
from collections.abc import Mapping

OPTIONS = {
    "context_length": "context",
    "kind": "tokenizer",
    "max_position_embeddings": "context",
    "num_attention_heads": "heads",
    "num_grains": "grains",
    "num_graphs": "graphs",
    "num_heads": "heads",
    "num_hidden_layers": "layers",
    "num_key_value_heads": "kv_heads",
    "num_layers": "layers",
    "output_dir": "output",
    "path": "text_file file",
    "root": "cache",
    "text": "prompt",
}
"""What the command line calls an argument that has another name in the library; the first of
several that a command has.
"""

WITHOUT_OPTION = {"head_dim": ", or give head_dim"}
"""Remedies that name an argument for which a command has no option: they are left out."""


def in_options(text: str, spelled: Mapping[str, str]) -> str:
    """The text with ``--top-k`` in the place of ``top_k``, for the arguments that a command spells
    so.

    A name that is a common word too ("levels") is one only where the text begins with it
    ("levels must be ..."), or gives its value: ``levels=3``.
    """
    for name, remedy in WITHOUT_OPTION.items():
        if name not in spelled:
            text = text.replace(remedy, "")
    others = {
        name: spelled[option]
        for name, options in OPTIONS.items()
        for option in reversed(options.split())
        if option in spelled and name not in spelled
    }
    for name, option in {**others, **spelled}.items():
        # a path, another option or an attribute (data.group_7) is no name of an argument
        word = rf"(?<![\w.'\"/-]){name}(?![\w.'\"/-])"
        if "_" not in name:
            word = rf"^{name}(?=(?: must| names| is| was|:|=))|{word}(?==)"
        text = re.sub(word, option, text)
        text = re.sub(rf"{option}=None(?!\w)", f"no {option}", text)
    return text
