"""What ``graphformer train-graphs`` writes of the graphs that were held out: a table, a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphformer.cli.telling import say
from graphformer.errors import MissingExtra
from graphformer.inspect import plot_parity
from graphformer.training.saving import write_text


def write_held_out(output: Path, model: Any, test: Any, max_nodes: int) -> None:
    """``predictions.csv``, a row for each label: what it is, and what was predicted (of classes,
    the likeliest); and where matplotlib is installed ``parity.png``, of several targets
    ``parity-<name>.png``.
    """
    made = model.predict(test, max_nodes)
    made = made if isinstance(made, dict) else {"y": made}
    columns: dict[str, list[Any]] = {}
    for name, predicted in made.items():
        labels = torch.cat([getattr(data, name).reshape(-1) for data in test])
        picture = output / ("parity.png" if len(made) == 1 else f"parity-{name}.png")
        if model.net.targets[name].task == "classification":
            binary = predicted.shape[-1] == 1
            likeliest = (predicted > 0 if binary else predicted.argmax(-1)).int().reshape(-1)
            columns[name] = labels.tolist()
            columns[f"{name}_predicted"] = likeliest.tolist()
            count, told = (
                2 if binary else predicted.shape[-1],
                model.featuriser.get("classes") or [],
            )
            classes = told if len(told) == count else [str(k) for k in range(count)]
            _parity(labels, likeliest, picture, classes=classes)
            continue
        labels, predicted = labels.view(predicted.shape[0], -1), predicted.flatten(1)
        for k in range(predicted.shape[1]):
            own = name if predicted.shape[1] == 1 else f"{name}_{k}"
            columns[own] = labels[:, k].tolist()
            columns[f"{own}_predicted"] = predicted[:, k].tolist()
        told = model.featuriser.get("target_names") or []
        names = {"names": told} if len(told) == predicted.shape[1] else {}
        _parity(labels, predicted, picture, **names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(output / "predictions.csv", text.getvalue())


def _parity(labels: Tensor, predicted: Tensor, path: Path, **named: list[str]) -> None:
    try:
        plot_parity(labels, predicted, path, **named)
    except MissingExtra as error:
        say(f"{path.name} is not drawn: {error}")
    except ValueError as error:  # such as a column that has no label among the held-out graphs
        say(f"warning: {path.name} is not drawn: {error}", err=True)
