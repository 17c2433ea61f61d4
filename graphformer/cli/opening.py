"""A language model and its tokenizer from a folder, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from graphformer.errors import require
from graphformer.training import load_language_model
from graphformer.training.file_checks import read_json
from graphformer.training.run import GRAPH_MODEL

ADAPTER = "adapter_config.json"


def open_model(folder: Path) -> tuple[Any, Any]:
    """A model, in evaluation mode, and its tokenizer: of ours, of transformers, or an adapter of
    PEFT on the model that it names. Nothing is fetched, and code in a folder is never run.

    Raises:
        ValueError: no model, or its base is not where the adapter says.
    """
    if not folder.is_dir():
        raise ValueError(
            f"MODEL: {str(folder)!r} is no folder; nothing is fetched, so give a folder with "
            "config.json, weights and a tokenizer"
        )
    if (folder / ADAPTER).is_file():
        peft = require("peft", extra="adapters", why=f"An adapter, {folder}")
        problems: list[str] = []
        base = (read_json(folder / ADAPTER, problems) or {}).get("base_model_name_or_path")
        if problems:
            raise ValueError(f"MODEL: {str(folder)!r} cannot be read: {problems[0]}")
        if not isinstance(base, str) or not base or not Path(base).is_dir():
            raise ValueError(
                f"MODEL: {folder} is an adapter of the model {base!r}, which is no folder here: "
                f"run from where it is, or write its path into {folder / ADAPTER}"
            )
        model, tokenizer = open_model(Path(base))
        with _read(folder):
            return peft.PeftModel.from_pretrained(model, folder).eval(), tokenizer
    refuse_graphs(folder)
    with _read(folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type == "graphformer":
            return load_language_model(folder)
        causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
        is_decoder = causal and getattr(config, "is_decoder", None) is not False
        kind = transformers.AutoModelForCausalLM if is_decoder else transformers.AutoModel
        model = kind.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return model.eval(), tokenizer


def refuse_graphs(folder: Path) -> None:
    """ValueError for a folder that ``graphformer train-graphs`` wrote."""
    if (read_json(folder / "config.json", []) or {}).get("kind") == GRAPH_MODEL:
        raise ValueError(
            f"MODEL: {str(folder)!r} holds a model of graphs, which reads no text; graphformer "
            "predict reads new graphs with it"
        )


@contextmanager
def _read(folder: Path) -> Iterator[None]:
    """What transformers says of a folder that it cannot read, in a line; not its advice to run the
    folder's code.
    """
    try:
        yield
    except ImportError:  # a package lacks, and the folder is whole
        raise
    except Exception as error:  # damaged files make each reader fail in its own way
        told = " ".join(str(error).split())
        why = "it names code of its own, which is never run" if "custom code" in told else told
        raise ValueError(f"MODEL: {str(folder)!r} cannot be read: {why}") from error


def open_causal(folder: Path) -> tuple[Any, Any]:
    """The same of a model that predicts the next token.

    Raises:
        ValueError: another kind of model.
    """
    model, tokenizer = open_model(folder)
    if not model.can_generate():
        raise ValueError(
            f"MODEL: {folder} holds a {type(model).__name__}, which predicts no next token"
        )
    return model, tokenizer
