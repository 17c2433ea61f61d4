"""transformers' Trainer, with checkpoints that are written whole and loaded as they were saved, or
not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from graphformer.finite import NotFinite
from graphformer.training.checkpoints import STATE, found_checkpoints, model_problems
from graphformer.training.file_checks import optimizer_problems, reading
from graphformer.training.saving import PARTIAL, discard, new_folder

_REMEDY = "remove this checkpoint, and resume from an earlier one or start again"


def diverged(args: TrainingArguments, state: TrainerState, found: str) -> ValueError:
    """The error that ends a run whose numbers are no longer finite."""
    return ValueError(
        f"learning_rate={args.learning_rate}: {found} at step {state.global_step}, training has "
        "diverged; use a smaller learning_rate or more warmup_steps, look for extreme values among "
        "the inputs, and start again."
    )


class StopWhenDiverged(TrainerCallback):
    """An error instead of hours of NaN."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise diverged(args, state, f"the loss is {loss}")


class ResumableTrainer(Trainer):
    """A Trainer for one run in ``args.output_dir``.

    Each checkpoint appears in one step with the digests of its files, see
    :mod:`~graphformer.training.saving`; the oldest are removed after that. What the Trainer itself
    would pass over in loading (tensors that lack, states of other shapes, best weights that are
    gone) is an error.

    Evaluations draw no random number of the training's, so that how often there is one changes no
    weight.
    """

    _staging: Path | None = None
    tell: Callable[[str], None] | None = None
    """Where a line for the user goes; None tells nothing."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with its progress bars closed however it ends: what is told of an error
        starts a line.
        """
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            for callback in self.callback_handler.callbacks:
                for bar in (
                    getattr(callback, "prediction_bar", None),
                    getattr(callback, "training_bar", None),
                ):
                    if bar is not None:
                        bar.close()
            raise

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """As the Trainer's. Layers refuse NaN on the CPU before a loss is made of it; in training
        that has one likely cause.
        """
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except NotFinite as error:
            raise diverged(self.args, self.state, str(error)) from error

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=()):  # a loader of batches draws a seed on the CPU
            return super()._evaluate(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, step = Path(super()._get_output_dir(trial)), self.state.global_step
        target = folder / f"checkpoint-{step}"
        with new_folder(target) if self.args.should_save else nullcontext():
            # every process writes its random state into the folder
            self.accelerator.wait_for_everyone()
            self._staging = folder / PARTIAL
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            # every process's Trainer has looked for it in the hidden folder
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(
                    folder / f"checkpoint-{self.state.best_global_step}"
                )
            if self.args.should_save and self.state.best_global_step:
                self.state.save_to_json(str(folder / PARTIAL / target.name / STATE))
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._remove_oldest(folder, step)

    def _remove_oldest(self, folder: Path, newest: int) -> None:
        """Those of later steps, which a run that goes on from an older checkpoint has not written
        again yet, do not count: they may be the broken ones that were passed over.
        """
        if not self.args.save_total_limit:
            return
        found = {step: path for step, path in found_checkpoints(folder).items() if step <= newest}
        protected = {newest, self.state.best_global_step} & set(found)
        spare = [step for step in sorted(found) if step not in protected]
        for step in spare[: max(len(found) - max(self.args.save_total_limit, len(protected)), 0)]:
            discard(found[step])

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with reading(resume_from_checkpoint, _REMEDY):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Of tied tensors one is saved, and the Trainer warns of the other."""
        assert isinstance(self.model, nn.Module)
        tied = self.model.state_dict(keep_vars=True)
        known = {id(value) for name, value in tied.items() if name not in load_result.missing_keys}
        missing = [name for name in load_result.missing_keys if id(tied[name]) not in known]
        if missing or load_result.unexpected_keys:
            raise ValueError(
                f"missing weights: {missing}; unexpected weights: {load_result.unexpected_keys}"
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint, _REMEDY):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint and self.optimizer and (problems := optimizer_problems(self.optimizer)):
                raise ValueError("; ".join(problems))
        if checkpoint:
            self._draw_schedule_anew(checkpoint)

    def _draw_schedule_anew(self, checkpoint: str) -> None:
        """The optimizer's learning rates are those of the schedule at the step reached: the
        checkpoint's own, unless the run has been given another length.
        """
        schedule: Any = self.lr_scheduler
        before = schedule.get_last_lr()
        now = [
            base * rate(schedule.last_epoch)
            for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(schedule.optimizer.param_groups, now, strict=True):
            group["lr"] = rate
        schedule._last_lr = now
        planned = TrainerState.load_from_json(str(Path(checkpoint) / STATE)).max_steps
        if self.tell and planned != self.args.max_steps:
            self.tell(
                f"{self.args.max_steps:,} steps, planned were {planned:,}: the cosine of the "
                f"learning rate is drawn anew over all of them, and goes on at step "
                f"{schedule.last_epoch:,} with {now[0]:.3g} (it was {before[0]:.3g})"
            )

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint, _REMEDY):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        if problems := model_problems(best, self.model):
            raise ValueError(
                f"the best weights of the run, in {str(best)!r}, are gone or damaged "
                f"({'; '.join(problems)}); put them back, or remove the checkpoints that are "
                "newer, and resume."
            )
        super()._load_best_model()
