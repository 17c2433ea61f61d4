"""transformers' Trainer, set up for language models: an exact evaluation, decay of matrices only, a
quiet progress bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    EvalPrediction,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from graphformer.datasets.text.windows import collate_windows
from graphformer.training.language.evaluation import Evaluation, window_losses
from graphformer.training.parameters import ParameterLog
from graphformer.training.progress import Progress
from graphformer.training.resumable import ResumableTrainer, StopWhenDiverged
from graphformer.training.run import is_main_process


class LanguageTrainer(ResumableTrainer):
    """A Trainer whose ``eval_loss`` is the exact mean over tokens, beside ``eval_perplexity`` and
    ``eval_num_tokens``.
    """

    def __init__(self, progress: bool = True, **kwargs: Any) -> None:
        super().__init__(
            data_collator=collate_windows,
            preprocess_logits_for_metrics=_first_output_losses,
            compute_metrics=_exact_metrics,
            **kwargs,
        )
        # the Trainer's choice where its own progress bar is off
        self.remove_callback(PrinterCallback)
        self.add_callback(StopWhenDiverged())
        self.add_callback(EndIsLogged())
        assert self.model is not None and self.args.output_dir is not None  # both are given
        self.add_callback(ParameterLog(self.model, self.args.output_dir))
        if progress:
            self.add_callback(QuietProgress())
            self.tell = tqdm.write if is_main_process() else None

    def continue_from(self, checkpoint: Path | None) -> None:
        """Train to the last step, from the start or from a checkpoint."""
        config = getattr(self.model, "config", None)
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            # the Trainer itself would take one step more
            if state.global_step >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        self.train(
            resume_from_checkpoint=str(checkpoint) if checkpoint else None,
            # The Trainer adds this to a list, and a config may hold a tuple.
            ignore_keys_for_eval=list(
                getattr(config, "keys_to_ignore_at_inference", ["past_key_values"])
            ),
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices decay, those of each head included. Vectors and numbers do not: norms, biases,
        the eps and sharpening of a graph operator; ``[heads, 1, width]`` is one vector for each
        head.
        """
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1
        ]


def training_arguments(**kwargs: Any) -> TrainingArguments:
    """The arguments of a run, with the traps of the defaults taken out."""
    names = TrainingArguments.__dataclass_fields__
    if "activation_checkpointing" in names:  # the newer name of the same thing
        kwargs["activation_checkpointing"] = kwargs.pop("gradient_checkpointing")
    arguments = TrainingArguments(
        **kwargs,
        lr_scheduler_type="cosine_with_min_lr",
        optim="adamw_torch",
        report_to="none",  # the caller brings the callbacks
        log_level="warning",
        log_level_replica="error",
        disable_tqdm=True,  # QuietProgress has the bar
        eval_strategy="steps",
        save_strategy="steps",
        logging_strategy="steps",
        eval_do_concat_batches=False,  # joining after each batch would copy all earlier ones
        logging_nan_inf_filter=False,  # a diverged loss must be seen
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        # asked for explicitly, bf16 runs on a CPU too
        use_cpu=not torch.accelerator.is_available(),
    )
    # one process is one device: otherwise nn.DataParallel would multiply the batch
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class EndIsLogged(TrainerCallback):
    """The last step is logged, so that the steps between logs need not divide a run's length."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class QuietProgress(Progress):
    """Loss and perplexity of each evaluation."""

    def told(self, logs: dict[str, float]) -> str:
        return f"loss {logs['eval_loss']:.4f} nats, perplexity {logs['eval_perplexity']:.3f}"


@contextmanager
def no_shard_bars() -> Iterator[None]:
    """Transformers shows a bar for each file it writes, in the middle of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_output_losses(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return window_losses(logits[0] if isinstance(logits, tuple) else logits, labels)


def _exact_metrics(prediction: EvalPrediction) -> dict[str, float]:
    result = Evaluation.from_windows(prediction.predictions)
    # Under the name "loss" it takes the place of the Trainer's own eval_loss, a mean over batches
    # of unequal size.
    return {
        "loss": result.loss_nats_per_token,
        "perplexity": result.perplexity,
        "num_tokens": result.num_tokens,
    }
