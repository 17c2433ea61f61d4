"""The texts, and the models that learn them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from benchmarks import report
from graphformer.datasets import GSM8K, TextDataset, embedded_text

TEXTS = ("gsm8k", "tinyshakespeare")
GLIMPSE = 40
"""Windows of the validation text that the curve is measured on."""


@dataclass(frozen=True)
class Task:
    """What is learnt, and by which model.

    Attributes:
        fresh: the pre-trained model, a new one each time.
        data: data sets ``"train"``, ``"validation"``, ``"test"`` and ``"glimpse"``.
        few: what is trained on where there are few examples, from a seed; otherwise None.
        tokens: of each part.
    """

    fresh: Callable[[], PreTrainedModel]
    data: dict[str, TextDataset]
    few: Callable[[int], TextDataset] | None
    tokens: dict[str, int]

    def train_set(self, seed: int) -> TextDataset:
        return self.data["train"] if self.few is None else self.few(seed)


def load(
    name: str,
    model: Path | None = None,
    context: int = 256,
    windows: int | None = None,
    examples: int | None = None,
    quick: bool = False,
) -> Task:
    """A text for a model.

    Args:
        model: its folder; stories260K unless given.
        windows: of ``context`` tokens that validate, and that test; all of them unless given. A
            large model's evaluation takes longer than its training otherwise.
        examples: how many of the training text's examples are learnt from, drawn by the seed.
        quick: a small model with random weights, and the embedded text.
    """
    if quick:
        tokenizer, fresh = random_model()
    else:
        home = model or stories260k()
        tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False)

        def fresh() -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(home, trust_remote_code=False)

    train, validation, test = parts(name, quick)
    kept = None if windows is None else windows * context + 1
    ids = {
        "train": tokens(tokenizer, "".join(train)),
        "validation": tokens(tokenizer, validation)[:kept],
        "test": tokens(tokenizer, test)[:kept],
    }
    data = {
        part: TextDataset(one, context, stride=1 if part == "train" else context)
        for part, one in ids.items()
    }
    glimpse = GLIMPSE if windows is None else max(windows // 8, 1)
    data["glimpse"] = TextDataset(ids["validation"][: glimpse * context + 1], context, context)

    def few(seed: int) -> TextDataset:
        drawn = np.random.default_rng(seed).permutation(len(train))[:examples]
        text = "".join(train[i] for i in drawn)
        return TextDataset(tokens(tokenizer, text), context, stride=1)

    if examples is not None and examples > len(train):
        raise SystemExit(f"error: --examples {examples}: {name} has {len(train):,} to train on")
    sizes = {part: len(one) for part, one in ids.items()}
    return Task(fresh, data, None if examples is None else few, sizes)


def stories260k() -> Path:
    """The folder of the pre-trained model: beside the data sets."""
    folder = (
        Path(os.environ.get("GRAPHFORMER_MODELS", report.data_dir().parent / "models"))
        / "stories260K"
    )
    if not folder.is_dir():
        raise SystemExit(
            f"error: no model at {folder}; set GRAPHFORMER_MODELS to the folder that holds "
            "stories260K"
        )
    return folder


def parts(name: str, quick: bool) -> tuple[list[str], str, str]:
    """Examples to train on, text to validate (the choice of the learning rate) and to test on. An
    example is a problem of gsm8k, or 1,000 characters of plays.
    """
    if quick:
        text = embedded_text()[:60_000]
        return cut(text[:40_000]), text[40_000:50_000], text[50_000:]
    if name == "tinyshakespeare":
        text = (report.data_dir() / name / "input.txt").read_text()
        eighth, ninth = len(text) * 8 // 10, len(text) * 9 // 10
        return cut(text[:eighth]), text[eighth:ninth], text[ninth:]
    train, test = (GSM8K(split=part, raw=report.data_dir() / name) for part in ("train", "test"))
    most = len(train) * 9 // 10
    validation = "".join(map(train.text, range(most, most + 300)))
    return (
        [train.text(i) for i in range(most)],
        validation,
        "".join(map(test.text, range(400))),
    )


def cut(text: str, length: int = 1000) -> list[str]:
    return [text[i : i + length] for i in range(0, len(text), length)]


def tokens(tokenizer: Any, text: str) -> Tensor:
    lines = text.splitlines(keepends=True)
    ids = [i for line in tokenizer(lines, add_special_tokens=False)["input_ids"] for i in line]
    return torch.tensor(ids, dtype=torch.int64)


def random_model() -> tuple[Any, Callable[[], PreTrainedModel]]:
    """A small Llama with random weights and a tokenizer of characters."""
    from graphformer.datasets import build_tokenizer

    tokenizer = build_tokenizer("char", embedded_text())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    return tokenizer, lambda: copy.deepcopy(model)
