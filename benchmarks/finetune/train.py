"""One run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from graphformer.adapters.looking import LambdaRecorder
from graphformer.datasets import TextDataset
from graphformer.training import evaluate

EVALUATIONS = 8
WEIGHT_DECAY, CLIP, SCHEDULE = 0.01, 1.0, "constant_with_warmup"


class Curve(transformers.TrainerCallback):
    """Losses on the start of the validation text over training.

    Args:
        keep: whether the trained weights of the lowest one are kept, :attr:`best`.
    """

    def __init__(self, model: nn.Module, glimpse: TextDataset, steps: int, keep: bool):
        self.model, self.glimpse, self.keep = model, glimpse, keep
        self.every = max(steps // EVALUATIONS, 1)
        self.points: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] = {}
        self.look(0)

    def look(self, step: int) -> None:
        loss = evaluate(self.model, self.glimpse).loss_nats_per_token
        if self.keep and loss < min((one for _, one in self.points), default=float("inf")):
            self.best = {name: one.detach().clone() for name, one in trained(self.model)}
        self.points.append((step, loss))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.look(state.global_step)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)


def train(
    model: nn.Module,
    data: dict[str, TextDataset],
    rate: float,
    seed: int,
    steps: int,
    batch: int,
    final: str,
    keep_best: bool = False,
) -> dict[str, Any]:
    """Train a wrapped model; its validation curve, and its loss on the part ``final``: of the last
    weights, or of the best on the curve.
    """
    curve = Curve(model, data["glimpse"], steps, keep_best)
    recorder = LambdaRecorder(every=max(steps // 20, 1))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            lr_scheduler_type=SCHEDULE,
            warmup_steps=steps // 20,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=CLIP,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            model, arguments, train_dataset=data["train"], callbacks=[curve, recorder]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    seconds = time.process_time() - start
    with torch.no_grad():
        for name, one in trained(model):
            if name in curve.best:
                one.copy_(curve.best[name])
    loss = evaluate(model, data[final]).loss_nats_per_token
    said = getattr(model, "peft_config", {}).get("default")
    return {
        "seed": seed,
        "rate": rate,
        "loss": loss,
        "ranks": [getattr(said, name, None) for name in ("rank", "rank_pattern")],
        "curve": curve.points,
        "lambda": recorder.history,
        "trainable": sum(one.numel() for _, one in trained(model)),
        "parameters": sum(one.numel() for one in model.parameters()),
        "file_size": file_size(model),
        "cpu_seconds": round(seconds, 1),
    }


def file_size(model: nn.Module) -> int:
    """Bytes of the saved weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
