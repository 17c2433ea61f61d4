"""The trained numbers that this library's layers and adapters add, and how they move over a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from graphformer.training.run import PARAMETERS_FILE, is_main_process
from graphformer.training.saving import write_text

NAMES = {
    "sharpening": "alpha",
    "eps": "eps",
    "sparsegin_scale": "lambda",
    "amount": "amount",
    "tau": "tau",
    "delta": "delta",
}
"""What a parameter is called in a formula, by its name in a module."""


def own_numbers(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """The name in the formula, the layer and the parameter, in the order of the model."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        own = next((part for part in reversed(parts) if part in NAMES), None)
        if own is not None and parameter.ndim <= 1:
            yield NAMES[own], ".".join(parts[: parts.index(own)]), parameter


def read_parameters(folder: str | Path) -> list[dict[str, Any]]:
    """The lines that :class:`ParameterLog` wrote into a run's folder: ``step``, and of each name
    the numbers of each layer. Empty where there are none; a line that a killed run has cut short is
    left out.
    """
    path = Path(folder) / PARAMETERS_FILE
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


class ParameterLog(TrainerCallback):
    """Writes ``parameters.jsonl``: a line at the start and whenever the loss is logged, as
    ``{"step": 10, "alpha": {"model.layers.0.self_attn": [1.02]}, ...}`` with a number a head, or
    one a layer. A model without such numbers gets no file.

    A run that goes on from a checkpoint takes back what was written after it.
    """

    def __init__(self, model: nn.Module, folder: str | Path) -> None:
        self.found = list(own_numbers(model)) if is_main_process() else []
        self.path = Path(folder) / PARAMETERS_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.found:
            return
        lines = [
            line for line in read_parameters(self.path.parent) if line["step"] < state.global_step
        ]
        write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))
        self._write(state.global_step)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.found and "loss" in (logs or {}):
            self._write(state.global_step)

    def _write(self, step: int) -> None:
        # in one tensor, so that a GPU is waited for once
        flat = torch.cat([one.detach().double().flatten() for *_, one in self.found])
        numbers: list[Tensor] = list(flat.cpu().split([one.numel() for *_, one in self.found]))
        line: dict[str, Any] = {"step": step}
        for (name, layer, _), values in zip(self.found, numbers, strict=True):
            line.setdefault(name, {})[layer] = [round(value, 7) for value in values.tolist()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
