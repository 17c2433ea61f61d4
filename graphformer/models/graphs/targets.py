"""What a graph model predicts, and the loss of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.errors import number, require_known, whole
from graphformer.models.graphs.label_masks import without_uncounted

PLACES, TASKS = ("graph", "node", "edge"), ("regression", "classification")
LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        place: ``"graph"``, ``"node"`` or ``"edge"``: what has a row of predictions.
        out_dim: numbers a row.
        task: ``"regression"``; or ``"classification"``, whose predictions are logits. Which kind is
            in the labels: ``out_dim=1`` is binary (y of 0 and 1); integers, one a row, are classes
            ``0..out_dim - 1``; ``[rows, out_dim]`` of 0 and 1 are several labels.
        loss: of a regression: ``"mse"``, ``"mae"`` or ``"huber"``.
        weight: of this target's loss in the sum over targets.
    """

    place: str = "graph"
    out_dim: int = 1
    task: str = "regression"
    loss: str = "mse"
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_known("target", self.place, PLACES)
        require_known("task", self.task, TASKS)
        require_known("loss", self.loss, LOSSES)
        whole("out_dim", self.out_dim)
        number("weight", self.weight, least=0.0)
        if self.task == "classification" and self.loss != "mse":
            raise ValueError(
                f"loss={self.loss!r} is of regressions; a classification is trained with cross "
                "entropy: leave it out"
            )

    @classmethod
    def read(cls, value: Target | Mapping[str, Any] | str) -> Target:
        """From what a user or a settings file gives."""
        if isinstance(value, Target):
            return value
        return cls(value) if isinstance(value, str) else cls(**value)


class TargetHead(nn.Module):
    """``Linear -> SiLU -> dropout -> Linear``."""

    def __init__(self, width: int, hidden_size: int, target: Target, dropout: float) -> None:
        super().__init__()
        self.target = target
        self.layers = nn.Sequential(
            nn.Linear(width, hidden_size),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, target.out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def target_loss(
    prediction: Tensor, y: Tensor, target: Target, name: str = "y", keep: Tensor | None = None
) -> Tensor:
    """The mean loss over the labels that are there and, where ``keep`` (bool ``[rows]``) is given,
    count.

    Missing: NaN, and a negative class. Without any it is 0, with a gradient of 0.
    """
    rows, width = prediction.shape
    if not isinstance(y, Tensor) or y.is_complex():
        raise TypeError(
            f"data.{name} must be a tensor of real numbers, got "
            f"{y.dtype if isinstance(y, Tensor) else type(y).__name__}"
        )
    classes = target.task == "classification" and width > 1 and y.numel() == rows
    turned = y.ndim == 2 and y.shape == (width, rows) and 1 < width != rows > 1
    if y.numel() != (rows if classes else rows * width) or turned:
        several = target.task == "classification" and width > 1
        raise ValueError(
            f"data.{name} must hold {rows} x {width} numbers ({target.place}s x out_dim"
            f"{', or one class a row' if several else ''}), got shape {list(y.shape)}. A graph's "
            "own y is [1, out_dim], so that PyG stacks them"
        )
    y = without_uncounted(y, keep, width, target.task == "classification")
    if classes:
        y = y.reshape(rows)
        present = y >= 0  # false for NaN
        if bool((y[present] >= width).any()):
            raise ValueError(
                f"data.{name} must hold classes in 0..{width - 1}, got "
                f"{y[present].max().item():g}; set out_dim to their number"
            )
        labels = torch.where(present, y, torch.zeros_like(y))
        if bool((labels != labels.long()).any()):
            raise ValueError(
                f"data.{name} must hold classes, whole numbers, got "
                f"{labels[labels != labels.long()][0].item():g}"
            )
        each = F.cross_entropy(prediction, labels.long(), reduction="none")
    else:
        y = y.reshape(rows, width).to(prediction.dtype)
        present = ~y.isnan()
        if target.task == "classification":
            present = present & (y >= 0)
            labels = torch.where(present, y, torch.zeros_like(y))
            if bool(((labels != 0) & (labels != 1)).any()):
                wrong = labels[(labels != 0) & (labels != 1)][0]
                raise ValueError(
                    f"data.{name} must hold 0 and 1 (out_dim={width}), got {wrong.item():g}"
                )
            each = F.binary_cross_entropy_with_logits(prediction, labels, reduction="none")
        else:
            labels = torch.where(present, y, prediction.detach())
            each = LOSSES[target.loss](prediction, labels, reduction="none")
    return (each * present).sum() / max(int(present.sum()), 1)
