"""Text as windows of tokens.

A window of context length ``C`` holds ``C + 1`` tokens: a causal model shifts the labels by one, so
it makes ``C`` predictions, and neighbouring windows at stride ``C`` share one token. In this way
each token but the first is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORED_LABEL = -100  # the label that transformers' losses leave out


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
