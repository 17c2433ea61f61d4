"""How good predictions are, where labels are there: mean absolute error, root mean square error, R2, accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def regression_metrics(prediction: Tensor, labels: Tensor) -> dict[str, float]:
    """``mae``, ``rmse`` and ``r2`` over the labels that are not NaN, in the unit of the labels.

    ``r2`` is ``1 - sum (y - p)^2 / sum (y - mean y)^2`` in each column, then the mean over columns. A column needs two different labels;
    without one, and where there are no labels at all, values are NaN.

    Args:
        prediction: ``[rows, out_dim]``.
        labels: as many numbers, NaN where missing.
    """
    p, y = prediction.double(), labels.reshape(prediction.shape).double()
    present = ~y.isnan()
    count = int(present.sum())
    if not count:
        return {"mae": math.nan, "rmse": math.nan, "r2": math.nan}
    error = torch.where(present, p - y, 0.0)
    number = present.sum(0)
    mean = y.nansum(0) / number.clamp(min=1)
    spread = torch.where(present, y - mean, 0.0).square().sum(0)
    known = (number > 1) & (spread > 0)
    r2 = 1 - error.square().sum(0)[known] / spread[known]
    return {
        "mae": float(error.abs().sum() / count),
        "rmse": math.sqrt(float(error.square().sum()) / count),
        "r2": float(r2.mean()) if bool(known.any()) else math.nan,
    }


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``accuracy`` over the labels that are there (not NaN, not negative); NaN without any.

    Args:
        logits: ``[rows, out_dim]``.
        labels: one class a row where ``out_dim > 1``; or 0 and 1, as many as logits (a logit above 0 says 1).
    """
    rows, width = logits.shape
    if width > 1 and labels.numel() == rows:
        y, said = labels.reshape(rows), logits.argmax(-1)
    else:
        y, said = labels.reshape(rows, width), (logits > 0).long()
    present = y >= 0  # false for NaN
    return {"accuracy": float((said == y)[present].double().mean()) if bool(present.any()) else math.nan}
