"""What goes on beside the steps of a graph run: evaluation at the ends of epochs, the progress bar,
a run's arguments, and whether it was stopped early.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from graphformer.training.checkpoints import STATE
from graphformer.training.graphs.metrics import require_torchmetrics
from graphformer.training.progress import Progress

_NEVER = 10**9


def graph_arguments(validates: bool, **kwargs: Any) -> TrainingArguments:
    """The arguments of a run, with the traps of the defaults taken out. Evaluations and checkpoints
    are :class:`EpochEnds`'s.

    Raises:
        MissingExtra: the run validates and torchmetrics is not installed: told before the first
            epoch, not after it.
    """
    if validates:
        require_torchmetrics()
    if "restore_callback_states_from_checkpoint" in TrainingArguments.__dataclass_fields__:
        # how long early stopping has waited
        kwargs["restore_callback_states_from_checkpoint"] = True
    arguments = TrainingArguments(
        **kwargs,
        lr_scheduler_type="cosine_with_min_lr",
        optim="adamw_torch",
        report_to="none",
        log_level="warning",
        log_level_replica="error",
        disable_tqdm=True,  # GraphProgress has the bar
        eval_strategy="steps" if validates else "no",
        eval_steps=_NEVER,
        save_strategy="steps",
        save_steps=_NEVER,
        logging_strategy="steps",
        logging_steps=_NEVER,
        load_best_model_at_end=validates,
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False if validates else None,
        logging_nan_inf_filter=False,  # a diverged loss must be seen
        remove_unused_columns=False,
        dataloader_num_workers=0,
        use_cpu=not torch.accelerator.is_available(),
    )
    if arguments.n_gpu > 1:  # one process is one device
        arguments._n_gpu = 1
    return arguments


class EpochEnds(TrainerCallback):
    """Log, evaluate and save at the end of every ``every``-th epoch and of the last one.

    The Trainer sees the whole run as one epoch, because epochs of batches by budget differ in
    length; what it logs is told with the epochs that have ended.

    Args:
        ends: the number of steps after each epoch.
        every: epochs from one evaluation to the next.
        evaluate: there is a validation set.
    """

    def __init__(self, ends: Sequence[int], every: int, evaluate: bool) -> None:
        self.steps = {
            end: epoch + 1
            for epoch, end in enumerate(ends)
            if (epoch + 1) % every == 0 or end == ends[-1]
        }
        self.evaluate = evaluate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        here = state.global_step in self.steps
        control.should_log = control.should_save = here
        control.should_evaluate = here and self.evaluate
        if here:
            state.epoch = float(self.steps[state.global_step])


class GraphProgress(Progress):
    """The metrics of each evaluation."""

    def told(self, logs: dict[str, float]) -> str:
        return ", ".join(
            f"{name.removeprefix('eval_')} {value:.4g}"
            for name, value in logs.items()
            if name.startswith("eval_")
        )


def read_state(checkpoint: Path) -> TrainerState:
    """The Trainer's own state in a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / STATE))


def stopped_early(state: TrainerState, patience: int | None) -> bool:
    """Whether a run with this state was ended by early stopping."""
    kept: Any = state.stateful_callbacks  # a dictionary in a state that was read
    stopper = kept.get("EarlyStoppingCallback", {})
    waited = stopper.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return patience is not None and waited >= patience
