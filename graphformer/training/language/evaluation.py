"""How well a language model predicts a text: the exact mean over its tokens, however they fall into
batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from graphformer.datasets.text.windows import IGNORED_LABEL, collate_windows
from graphformer.errors import whole


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of a text.

    Attributes:
        loss_nats_per_token: ``-1/n sum_i ln p(token_i | tokens before it in its window)``.
        perplexity: ``exp(loss_nats_per_token)``.
        num_tokens: ``n``, the predicted tokens: all but the first where windows are
            ``context_length`` apart.
    """

    loss_nats_per_token: float
    perplexity: float
    num_tokens: int

    @classmethod
    def from_windows(cls, windows: Iterable[np.ndarray]) -> Evaluation:
        """From arrays ``[B, 2]``: the summed loss of each window and the number of its
        predictions.
        """
        total, count = np.sum(
            [np.asarray(rows, dtype=np.float64).sum(axis=0) for rows in windows], axis=0
        )
        mean = float(total / count)
        return cls(mean, math.exp(mean) if mean < 700 else math.inf, int(count))


def window_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each window's summed loss in nats and its number of predictions, float32 ``[B, 2]``.

    Args:
        logits: ``[B, N, V]``; those at position ``i`` predict the label at ``i + 1``.
        labels: ``[B, N]``; -100 is not predicted.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2),
        targets,
        ignore_index=IGNORED_LABEL,
        reduction="none",
    )
    return torch.stack([losses.sum(dim=1), (targets != IGNORED_LABEL).sum(dim=1).float()], dim=1)


@torch.no_grad()
def evaluate(model: PreTrainedModel, dataset: Dataset, batch_size: int = 32) -> Evaluation:
    """The exact mean loss of ``model`` over all predictions of ``dataset``; give it windows
    ``context_length`` apart.

    The result does not depend on ``batch_size``. The model is left in the mode (training or
    evaluation) that it had.

    Raises:
        ValueError: a ``batch_size`` below 1.
    """
    whole("batch_size", batch_size)
    was_training = model.training
    model.eval()
    windows = []
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collate_windows):
        batch = {name: value.to(model.device) for name, value in batch.items()}
        labels = batch.pop("labels")
        windows.append(window_losses(model(**batch, use_cache=False).logits, labels).cpu().numpy())
    model.train(was_training)
    return Evaluation.from_windows(windows)
