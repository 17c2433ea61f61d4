"""GSM8K: grade-school mathematics in words, with answers that show their steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from graphformer.datasets.store.download import RawFile, find
from graphformer.datasets.text.tokenizers import refuse_unknown
from graphformer.datasets.text.windows import TextDataset
from graphformer.errors import require_known, strict_flags

_ADDRESS = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
_SPLITS = {
    "train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "test": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
}
_MARK = re.compile(r"<<[^<>]*>>")


class GSM8K(Dataset):
    """7,473 (train) or 1,319 (test) problems of two to eight steps of arithmetic.

    Item ``i`` is ``{"question": str, "answer": str}``. An answer holds the steps, a line each, and
    ends with ``#### 72``, the number asked for. Its calculations carry marks for a calculator,
    ``48/2 = <<48/2=24>>24``; ``strip_marks`` leaves ``48/2 = 24``.

    >>> problems = GSM8K("data", "train")
    >>> problems.text(0), problems.answer(0)
    ('Question: Natalia sold clips to ...\\nAnswer: ...\\n#### 72\\n\\n', 72)
    >>> tokenizer = AutoTokenizer.from_pretrained("gpt2")
    >>> windows = problems.windows(tokenizer, 256, eos=True)  # what transformers' Trainer takes

    Args:
        root: a folder; ``root/raw`` takes the download. None downloads nothing.
        split: ``"train"`` or ``"test"``; only its file is needed.
        strip_marks: leave out the calculator's marks.
        raw: a folder that holds ``train.jsonl`` and ``test.jsonl``. Otherwise they are sought in
            ``root/raw``, then in the folder ``gsm8k`` of the folder that the environment variable
            GRAPHFORMER_DATA names, and then downloaded.
        log: show the download's progress (on a terminal).

    Raises:
        ValueError: an unknown split, or a raw file that is damaged or missing with no root to
            download it to.
        DownloadError: the raw file is nowhere and cannot be downloaded.

    Source: Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168; data
    MIT. The published set has no validation part: take one from the training problems.
    """

    raw_files: ClassVar[dict[str, RawFile]] = {
        name: RawFile(f"{name}.jsonl", sha, f"{_ADDRESS}{name}.jsonl")
        for name, sha in _SPLITS.items()
    }
    data_folder: ClassVar[str] = "gsm8k"

    @strict_flags
    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        strip_marks: bool = False,
        raw: str | Path | None = None,
        log: bool = True,
    ):
        require_known("split", split, self.raw_files)
        self.split, self.strip_marks = split, strip_marks
        path = find(
            self.raw_files[split],
            raw,
            None if root is None else Path(root) / "raw",
            self.data_folder,
            log=log,
        )
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        if strip_marks:
            records = [{**record, "answer": _MARK.sub("", record["answer"])} for record in records]
        self._records: list[dict[str, str]] = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, str]:
        return dict(self._records[index])

    def text(self, index: int) -> str:
        """A problem as one text to train on: ``"Question: ...\\nAnswer: ...\\n\\n"``. Cut after
        ``"Answer:"`` it is a prompt.
        """
        record = self._records[index]
        return f"Question: {record['question']}\nAnswer: {record['answer']}\n\n"

    def answer(self, index: int) -> int:
        """The number after ``####``; all are whole."""
        return int(self._records[index]["answer"].rpartition("####")[2].replace(",", ""))

    @strict_flags
    def windows(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        stride: int = 1,
        *,
        indices: Iterable[int] | None = None,
        eos: bool = False,
    ) -> TextDataset:
        """Windows over the problems, one after another.

        Args:
            tokenizer: of :func:`~graphformer.datasets.build_tokenizer`, or any of transformers.
                Each problem is tokenized by itself.
            context_length, stride: see :class:`~graphformer.datasets.TextDataset`: stride 1 trains,
                ``context_length`` evaluates.
            indices: the problems, in this order (a validation part, say); None takes all.
            eos: put the tokenizer's end token after each problem, from which a model learns to
                stop.

        Raises:
            ValueError: characters that the tokenizer has no token for, ``eos`` where it has no end
                token, no problem, or a bad length.
        """
        if eos and tokenizer.eos_token_id is None:
            raise ValueError(
                "eos=True needs a tokenizer with an end token, and this one has none; leave eos "
                "out."
            )
        texts = [self.text(i) for i in (range(len(self)) if indices is None else indices)]
        if not texts:
            raise ValueError("indices is empty; give at least one problem.")
        refuse_unknown(tokenizer, "".join(texts))
        end = [tokenizer.eos_token_id] if eos else []
        ids = [
            i
            for one in tokenizer(texts, add_special_tokens=False)["input_ids"]
            for i in (*one, *end)
        ]
        return TextDataset(torch.tensor(ids, dtype=torch.int64), context_length, stride)

    def __repr__(self) -> str:
        return f"GSM8K({len(self)} problems, split={self.split!r}, strip_marks={self.strip_marks})"
