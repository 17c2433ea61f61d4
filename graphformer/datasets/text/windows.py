"""Text as windows of tokens.

A window of context length ``C`` holds ``C + 1`` tokens: a causal model shifts the labels by one, so
it makes ``C`` predictions, and neighbouring windows at stride ``C`` share one token. In this way
each token but the first is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark
IGNORED_LABEL = -100  # the label that transformers' losses leave out


def embedded_text() -> str:
    """About 450 kB of English that every Python brings: the help topics of ``pydoc``, joined in the
    order of their names.

    The text is the same for each run of one Python version; other versions have other texts.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, with its line ends as they are and without a byte order mark.

    Raises:
        ValueError: no such file, a directory, an empty file, or bytes that are no UTF-8 text; the
            error names the path, the first offending byte (counted from 0) and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"path: there is no file {str(path)!r} (looked in {str(Path.cwd())!r}); give the path "
            "of a text file."
        )
    if not path.is_file():
        raise ValueError(f"path: {str(path)!r} is a directory; give the path of one text file.")
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            f"path: {str(path)!r} is UTF-16 by its byte order mark; convert it first, for example "
            "with: iconv -f utf-16 -t utf-8"
        )
    # it tells the encoding and is no character of the text
    mark = len(_MARK) if data.startswith(_MARK) else 0
    if len(data) == mark:
        raise ValueError(
            f"path: {str(path)!r} is empty; give a text file with at least one window of text."
        )
    if (offset := data.find(b"\0")) >= 0:
        raise ValueError(
            f"path: {str(path)!r} is a binary file: byte {offset} is NUL; give a UTF-8 text file."
        )
    try:
        return data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start + mark
        raise ValueError(
            f"path: {str(path)!r} is no UTF-8 text: byte {place} is 0x{data[place]:02x} "
            f"({error.reason}); convert it first, for example with: iconv -f latin1 -t utf-8"
        ) from None


def split(data: str | Tensor, fraction: float = 0.1) -> tuple[str | Tensor, str | Tensor]:
    """Cut a text or its tokens in two: the first ``1 - fraction`` for training, the last
    ``fraction`` for validation.

    Raises:
        ValueError: a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction must be between 0 and 1 (both excluded), got {fraction}; 0.1 is customary."
        )
    cut = int(len(data) * (1 - fraction))
    return data[:cut], data[cut:]


class TextDataset(Dataset):
    """Windows of ``context_length + 1`` tokens, ``stride`` tokens apart.

    Item ``s`` is ``{"input_ids": t, "labels": t}`` with ``t = tokens[s * stride : s * stride +
    context_length + 1]``. The last window ends with the last token and is shorter where the stride
    asks for it (``stride=1`` never does). For training use ``stride=1`` (every window); for
    evaluation ``stride=context_length``: then each token but the first is predicted once.

    Args:
        tokens: int64 ``[num_tokens]``.
        context_length: predictions a window.
        stride: tokens from the start of one window to the start of the next, at most
            ``context_length``.

    Raises:
        TypeError: tokens that are no int64 vector.
        ValueError: a length or stride below 1, a stride that would skip tokens, or fewer tokens
            than one window.
    """

    def __init__(self, tokens: Tensor, context_length: int, stride: int = 1):
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.ndim != 1:
            got = (
                f"{tokens.dtype} {list(tokens.shape)}"
                if isinstance(tokens, Tensor)
                else type(tokens).__name__
            )
            raise TypeError(
                f"tokens must be one int64 vector, got {got}; graphformer.datasets.encode makes "
                "one from text."
            )
        if context_length < 1:
            raise ValueError(
                f"context_length must be at least 1, got {context_length}; 64 is a good start on a "
                "CPU."
            )
        if not 1 <= stride <= context_length:
            raise ValueError(
                f"stride must be between 1 and context_length ({context_length}), got {stride}; "
                "use 1 to train and context_length to evaluate."
            )
        if len(tokens) < context_length + 1:
            raise ValueError(
                f"tokens: the text has {len(tokens)} tokens, which is less than one window of "
                f"context_length + 1 = {context_length + 1}; use a longer text or a context_length "
                f"of at most {max(len(tokens) - 1, 1)}."
            )
        self.tokens, self.context_length, self.stride = tokens, context_length, stride

    def __len__(self) -> int:
        return -(-(len(self.tokens) - 1 - self.context_length) // self.stride) + 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} windows")
        start = index % len(self) * self.stride
        window = self.tokens[start : start + self.context_length + 1]
        return {"input_ids": window, "labels": window}

    def __repr__(self) -> str:
        return (
            f"TextDataset({len(self)} windows of {len(self.tokens)} tokens, "
            f"context_length={self.context_length}, stride={self.stride})"
        )


def collate_windows(windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack windows to ``[B, N]``. A shorter one is padded on the right; only then there is an
    ``attention_mask`` (1 = real).

    Padding carries token 0 and the label -100, so it is neither seen by real tokens nor counted in
    a loss.
    """
    ids = [window["input_ids"] for window in windows]
    labels = [window["labels"] for window in windows]
    if len({len(row) for row in ids}) == 1:
        return {"input_ids": torch.stack(ids), "labels": torch.stack(labels)}
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=0),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED_LABEL),
        "attention_mask": pad(
            [torch.ones_like(row) for row in ids], batch_first=True, padding_value=0
        ),
    }
