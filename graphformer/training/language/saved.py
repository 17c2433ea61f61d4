"""A language model and its tokenizer, as a run has saved them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from graphformer.models.unmasked import refuse_masks
from graphformer.training.checkpoints import model_problems
from graphformer.training.file_checks import reading, tensor_names

_REMEDY = "put back the files of one run, or give another folder"


def load_language_model(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer that :func:`train_language_model` (also one of its checkpoints)
    wrote, in evaluation mode, on the CPU.

    Files are verified by their digests where the folder has them. Tensors must be those of the
    model by name and shape. Code that a folder names is never run, and nothing is downloaded.

    Raises:
        ValueError: a folder that holds no complete model, a model of another kind, or files that do
            not fit each other.
    """
    folder = Path(folder)
    if problems := model_problems(folder):
        raise ValueError(
            f"{str(folder)!r} holds no complete model ({'; '.join(problems)}); give a folder that "
            "graphformer train has finished, or one of its checkpoints."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{str(folder)!r} has no tokenizer.json; save the tokenizer beside the model."
        )
    # transformers would go to the model that it names
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{str(folder)!r} holds an adapter of another model; read it with peft.")
    refuse_masks(folder, tensor_names(sorted(folder.glob("model*.safetensors"))))
    with reading(folder, _REMEDY):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, told = found
    # transformers draws what is missing at random, and says so in a warning.
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in told.get(kind) or ()):
            what = kind.replace("_keys", "")
            raise ValueError(
                f"{str(folder)!r}: the weights do not fit config.json ({what}: "
                f"{', '.join(names[:3])}); {_REMEDY}."
            )
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{str(folder)!r}: {name} holds numbers that are not finite; {_REMEDY}."
            )
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{str(folder)!r}: the tokenizer has {len(tokenizer)} tokens, and the model knows "
            f"{model.config.vocab_size}; {_REMEDY}."
        )
    return model.eval(), tokenizer
