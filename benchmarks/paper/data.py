"""The texts: proteins with tags of their secondary structure, plays, arithmetic, and what is made
or embedded for a quick run.

A source gives three parts. Validation chooses (learning rates, the best epoch), the test part
chooses nothing.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks import report
from graphformer.datasets import (
    GSM8K,
    ProteinSecondaryStructure,
    TextDataset,
    build_tokenizer,
    embedded_text,
    encode,
    read_text,
)
from graphformer.datasets.proteins.protein import AMINO_ACIDS, STATES
from graphformer.datasets.text.windows import IGNORED_LABEL

Batch = dict[str, Tensor]
PARTS = ("train", "validation", "test")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphformer"


class Sequences(Dataset):
    """Sequences of their own lengths, each an example."""

    def __init__(self, rows: list[Tensor]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


@dataclass(frozen=True)
class Texts:
    """The parts of a text and what is kept about it.

    Attributes:
        seen: a part of the training data as large as validation, on which the training loss is
            taken in the end of each round.
        facts: sizes, for the result file.
    """

    vocab_size: int
    longest: int
    train: Sequences | TextDataset
    seen: Dataset
    validation: Dataset
    test: Dataset
    facts: Mapping[str, Any]

    def order(self, seed: int, batch: int, steps: int | None) -> Iterator[list[Batch]]:
        """Batches of one round after the other; the same for the same seed, whatever the model.

        Sequences of a pass come in random order, those of similar length in a batch.
        """
        dice = random.Random(seed)
        while True:
            if isinstance(self.train, TextDataset):
                places = [
                    [dice.randrange(len(self.train)) for _ in range(batch)]
                    for _ in range(steps or max(len(self.train.tokens) // batch // self.longest, 1))
                ]
            else:
                places = _alike(self.train, batch, dice)[:steps]
            yield [stacked([self.train[i] for i in one]) for one in places]


def _alike(data: Sequences, batch: int, dice: random.Random, stretch: int = 8) -> list[list[int]]:
    """Every sequence once: in random order, then by length within stretches of some batches, so
    that little is padding.
    """
    places = list(range(len(data)))
    dice.shuffle(places)
    found = []
    for at in range(0, len(places), batch * stretch):
        part = sorted(places[at : at + batch * stretch], key=lambda i: (len(data.rows[i]), i))
        found += [part[i : i + batch] for i in range(0, len(part), batch)]
    dice.shuffle(found)
    return found


def stacked(rows: list[Batch]) -> Batch:
    """A batch, padded on the right. No mask is made: a causal model's real tokens never see what
    comes after them, and padding has no label.
    """
    ids = [row["input_ids"] for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(ids, batch_first=True, padding_value=IGNORED_LABEL),
    }


# ---------------------------------------------------------------------- proteins

TAGS = dict(zip(STATES, ("AH", "BS", "UNSTRUCTURED"), strict=True))
WORDS = (
    *("<|pad|>", "<|begin_of_text|>", "<|sequence|>", "<|/sequence|>", "<|eot_id|>"),
    *(f"<|{tag}|>" for tag in TAGS.values()),
)
VOCABULARY = {word: i for i, word in enumerate((*WORDS, *AMINO_ACIDS))}


def protein_tokens(residues: Tensor, states: Tensor) -> Tensor:
    """A protein as the paper writes it: its residues, then its most frequent and its second most
    frequent kind of structure.

    ``<|begin_of_text|><|sequence|>MKV...<|/sequence|><|AH|><|UNSTRUCTURED|><|eot_id|>``. The
    paper's data have eight kinds, FLIP's three. Kinds of equal number come in the order of
    ``STATES``.

    Args:
        residues: int64 ``[N]``, places in ``AMINO_ACIDS``.
        states: ``[N]``, places in ``STATES``; NaN where unknown, which count for none.
    """
    counts = Counter(states[states.isfinite()].long().tolist())
    first, second = sorted(range(len(STATES)), key=lambda one: -counts[one])[:2]
    tags = [f"<|{TAGS[STATES[one]]}|>" for one in (first, second)]
    before, after = (
        torch.tensor([VOCABULARY[word] for word in words])
        for words in (WORDS[1:3], (WORDS[3], *tags, WORDS[4]))
    )
    return torch.cat([before, residues + len(WORDS), after])


def proteins(sizes: Mapping[str, int]) -> Texts:
    """FLIP's parts, proteins of fewer than ``residues`` (the paper: 256); ``train``,
    ``validation`` and ``test`` of each, drawn once (0: all).
    """
    raw = report.data_dir() / "flip-secondary-structure"
    data = ProteinSecondaryStructure(CACHE / "flip-paper", window=1, raw=raw, log=False)
    # by the borders of proteins: their graphs, which are not wanted, take long to make
    residues, states, borders = data._data.x[:, 0], data._data.y, data.slices["x"].tolist()
    parts = {}
    for name, part in zip(PARTS, data.standard_split(), strict=True):
        places = (slice(borders[i], borders[i + 1]) for i in part.indices())
        short = [at for at in places if at.stop - at.start < sizes["residues"]]
        parts[name] = [protein_tokens(residues[at], states[at]) for at in _some(short, sizes[name])]
    return _of_rows(parts, sizes)


def made_proteins(sizes: Mapping[str, int]) -> Texts:
    """Random residues whose frequencies follow their structure: to see that it runs."""
    dice = random.Random(0)

    parts = {"H": "AELKM", "E": "VIYFT", "C": "GPSND"}

    def one() -> Tensor:
        states = "".join(
            dice.choice(STATES) * dice.randint(3, 9) for _ in range(dice.randint(3, 7))
        )
        residues = [AMINO_ACIDS.index(dice.choice(parts[state])) for state in states]
        kinds = [float(STATES.index(state)) for state in states]
        return protein_tokens(torch.tensor(residues), torch.tensor(kinds))

    return _of_rows({part: [one() for _ in range(sizes[part])] for part in PARTS}, sizes)


def _some(rows: list[Any], count: int) -> list[Any]:
    return rows if not count else random.Random(0).sample(rows, min(count, len(rows)))


def _of_rows(parts: dict[str, list[Tensor]], sizes: Mapping[str, int]) -> Texts:
    data = {part: Sequences(rows) for part, rows in parts.items()}
    counts = torch.bincount(torch.cat(parts["train"]), minlength=len(VOCABULARY)).double()
    share = counts[counts > 0] / counts.sum()
    return Texts(
        len(VOCABULARY),
        max(len(row) for rows in parts.values() for row in rows),
        data["train"],
        Sequences(parts["train"][: len(parts["validation"])]),
        data["validation"],
        data["test"],
        {
            **sizes,
            "tokens": {part: sum(map(len, rows)) for part, rows in parts.items()},
            "loss_of_frequencies": float(-(share * share.log()).sum()),
        },
    )


# ---------------------------------------------------------------------- texts


def windows(parts: Mapping[str, str], sizes: Mapping[str, int]) -> Texts:
    """Characters in windows of ``context``; ``validation`` characters of each part are evaluated
    (0: all).
    """
    context, count = sizes["context"], sizes["validation"]
    tokenizer = build_tokenizer("char", "".join(parts.values()))
    ids = {part: encode(tokenizer, text) for part, text in parts.items()}
    seen = ids["train"][: count or len(ids["validation"])]
    evaluated = {
        part: TextDataset(one if not count else one[:count], context, stride=context)
        for part, one in {**ids, "seen": seen}.items()
        if part != "train"
    }
    return Texts(
        len(tokenizer),
        context,
        TextDataset(ids["train"], context),
        *(evaluated[part] for part in ("seen", "validation", "test")),
        facts={**sizes, "characters": {part: len(one) for part, one in ids.items()}},
    )


def tinyshakespeare(sizes: Mapping[str, int]) -> Texts:
    """The plays: eight, one and one tenth."""
    return windows(tenths(read_text(report.data_dir() / "tinyshakespeare" / "input.txt")), sizes)


def gsm8k(sizes: Mapping[str, int]) -> Texts:
    """Questions and answers: nine tenths of the training problems, the other tenth, the test
    problems.
    """
    train, test = (GSM8K(split=part, raw=report.data_dir() / "gsm8k") for part in ("train", "test"))
    cut = len(train) * 9 // 10
    parts = {
        "train": "".join(map(train.text, range(cut))),
        "validation": "".join(map(train.text, range(cut, len(train)))),
        "test": "".join(map(test.text, range(len(test)))),
    }
    return windows(parts, sizes)


def embedded(sizes: Mapping[str, int]) -> Texts:
    return windows(tenths(embedded_text()[:30_000]), sizes)


def tenths(text: str) -> dict[str, str]:
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return {"train": text[:first], "validation": text[first:second], "test": text[second:]}


SOURCES: dict[str, Callable[[Mapping[str, int]], Texts]] = {
    "proteins": proteins,
    "tinyshakespeare": tinyshakespeare,
    "gsm8k": gsm8k,
}
QUICK: dict[str, Callable[[Mapping[str, int]], Texts]] = {
    "proteins": made_proteins,
    "tinyshakespeare": embedded,
    "gsm8k": embedded,
}
