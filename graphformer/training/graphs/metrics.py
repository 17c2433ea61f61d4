"""How good predictions are, by torchmetrics, where labels are there: errors, R2, correlation;
accuracy, F1, area under the ROC curve.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from graphformer.errors import require


def require_torchmetrics() -> ModuleType:
    """``torchmetrics.functional``.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    return require("torchmetrics", extra="graphs", why="The evaluation of a graph model").functional


def regression_metrics(prediction: Tensor, labels: Tensor) -> dict[str, float]:
    r"""``mae``, ``rmse``, ``r2`` and ``pearson`` over the labels that are not NaN; errors in the
    unit of the labels.

    .. math::
        r2 = 1 - \frac{\sum (y - p)^2}{\sum (y - \bar y)^2}, \qquad
        pearson = \frac{\sum (y - \bar y)(p - \bar p)}
        {\sqrt{\sum (y - \bar y)^2 \sum (p - \bar p)^2}}

    in each column, then the mean over columns. A column needs two different labels, for ``pearson``
    two different predictions as well; without one, and where there are no labels at all, values are
    NaN.

    Args:
        prediction: ``[rows, out_dim]``.
        labels: as many numbers, NaN where missing.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    by = require_torchmetrics()
    p, y = prediction.double(), labels.reshape(prediction.shape).double()
    present = ~y.isnan()
    if not bool(present.any()):
        return {"mae": math.nan, "rmse": math.nan, "r2": math.nan, "pearson": math.nan}
    r2: list[float] = []
    pearson: list[float] = []
    for said, true in _columns(p, y, present):
        if not _varies(true):
            continue
        # torchmetrics takes sums of squares below 1e-4 for zero and does not subtract the mean
        # first. R2 does not depend on the unit.
        unit = true.std() * 1e-4
        r2.append(float(by.r2_score((said - true.mean()) / unit, (true - true.mean()) / unit)))
        # a diverged model's NaN is seen in the result, without torchmetrics' warning
        if _varies(said):
            pearson.append(
                math.nan if bool(said.isnan().any()) else float(by.pearson_corrcoef(said, true))
            )
    return {
        "mae": float(by.mean_absolute_error(p[present], y[present])),
        "rmse": float(by.mean_squared_error(p[present], y[present], squared=False)),
        "r2": _mean(r2),
        "pearson": _mean(pearson),
    }


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``accuracy``, ``f1`` and, where there are two classes, ``auroc``, over the labels that are
    there (not NaN, not negative).

    ``f1`` is the mean over the classes that occur as a label or as a prediction of
    ``2 TP / (2 TP + FP + FN)``. ``auroc`` is the probability that a row of class 1 has the higher
    logit than one of class 0 (ties count half); it needs both classes. With several yes-or-no
    questions both are the mean over columns, and ``accuracy`` counts all answers alike. NaN where
    nothing can be said.

    Args:
        logits: ``[rows, out_dim]``.
        labels: one class a row where ``out_dim > 1``; or 0 and 1, as many as logits (a logit above
            0 says 1).

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    by = require_torchmetrics().classification
    rows, width = logits.shape
    if width > 1 and labels.numel() == rows:
        y = labels.reshape(rows)
        present = y >= 0  # false for NaN
        x, y = logits[present], y[present].long()
        two, said = width == 2, x.argmax(-1)
        found = {
            "accuracy": float(by.multiclass_accuracy(said, y, width, average="micro"))
            if len(y)
            else math.nan,
            "f1": float(by.multiclass_f1_score(said, y, width, average="macro"))
            if len(y)
            else math.nan,
        }
        return {**found, "auroc": _auroc(x[:, 1] - x[:, 0], y)} if two else found
    y = labels.reshape(rows, width)
    present = y >= 0
    columns = [(x, true.long()) for x, true in _columns(logits, y, present)]
    x, true = logits[present], y[present].long()
    return {
        # As integers: torchmetrics takes logits that all lie between 0 and 1 for probabilities.
        "accuracy": float(by.binary_accuracy((x > 0).long(), true)) if len(true) else math.nan,
        "f1": _mean(
            [
                float(by.multiclass_f1_score((x > 0).long(), true, 2, average="macro"))
                for x, true in columns
            ]
        ),
        "auroc": _mean([value for x, true in columns if not math.isnan(value := _auroc(x, true))]),
    }


def _auroc(score: Tensor, y: Tensor) -> float:
    """The area under the ROC curve of a score for 0 and 1; NaN without both, or with a NaN among
    the scores.
    """
    if not _varies(y) or bool(score.isnan().any()):
        return math.nan
    # Only the order counts: places in it are exact between 0 and 1, where a sigmoid would make
    # large logits equal.
    order = torch.unique(score, return_inverse=True)[1].double()
    return float(
        require_torchmetrics().classification.binary_auroc(order / order.max().clamp(min=1), y)
    )


def _columns(p: Tensor, y: Tensor, present: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Predictions and labels of each column that has labels."""
    return [
        (a[there], b[there])
        for a, b, there in zip(p.unbind(1), y.unbind(1), present.unbind(1), strict=True)
        if bool(there.any())
    ]


def _varies(values: Tensor) -> bool:
    """Not all the same; true where there is a NaN, so that it is seen in the result."""
    return len(values) > 0 and not bool(values.max() == values.min())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
