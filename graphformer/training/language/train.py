"""Train a language model, with checkpoints from which a killed run continues as if nothing had
happened.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graphformer.datasets.text.windows import TextDataset
from graphformer.errors import number, require, strict_flags, whole
from graphformer.training.checkpoints import found_checkpoints, latest_checkpoint, require_complete
from graphformer.training.language.evaluation import Evaluation
from graphformer.training.length import at_start, require_reachable, settings_of
from graphformer.training.run import (
    CURVES_FOLDER,
    config_settings,
    dataset_settings,
    is_main_process,
    require_same_settings,
    run_folder,
    save_settings,
)
from graphformer.training.saving import new_files

LOG_STEPS = 10


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        model: the trained model (the one that was passed in), in evaluation mode.
        output_dir: where model, tokenizer and checkpoints lie.
        steps: optimizer steps from the start of the run, those before a resume included.
        train_loss: mean training loss of the last logged steps (10 at most), in nats a token.
        evaluation: loss, perplexity and number of tokens of the validation text after the last
            step.
        history: the Trainer's log of the whole run, one dict a line.
        resumed_from: the step at which this call went on, 0 for a new run.
    """

    model: PreTrainedModel
    output_dir: Path
    steps: int
    train_loss: float
    evaluation: Evaluation
    history: list[dict[str, Any]]
    resumed_from: int


@strict_flags
def train_language_model(
    model: PreTrainedModel,
    train_dataset: Dataset,
    eval_dataset: Dataset,
    output_dir: str | Path,
    *,
    steps: int,
    batch_size: int,
    eval_batch_size: int | None = None,
    learning_rate: float = 1e-3,
    warmup_steps: int | None = None,
    min_lr_ratio: float = 0.1,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.99),
    max_grad_norm: float = 1.0,
    seed: int = 0,
    eval_steps: int = 500,
    save_steps: int = 500,
    save_total_limit: int | None = 3,
    report_to: str = "none",
    resume: bool | str | Path = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    bf16: bool = False,
    gradient_checkpointing: bool = False,
    progress: bool = True,
    settings: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train ``model`` with AdamW for ``steps`` steps, and save it, its tokenizer and its
    checkpoints in ``output_dir``.

    The learning rate rises linearly for ``warmup_steps`` and falls along a cosine to
    ``min_lr_ratio * learning_rate``. The defaults with ``steps=2000, batch_size=12`` and windows of
    64 are nanoGPT's setting for a CPU. The same seed gives the same run; a killed one continues
    from its newest complete checkpoint with the same losses and weights. Under torchrun each
    process takes its own part of every batch, and the first one saves.

    Args:
        train_dataset: items ``{"input_ids", "labels"}``, see
            :class:`graphformer.datasets.TextDataset`.
        eval_dataset: the same, with windows ``context_length`` apart; evaluated every
            ``eval_steps`` steps and at the end.
        batch_size: windows a step **and process**.
        eval_batch_size: windows a batch of the evaluation; ``batch_size`` unless given. Changes no
            result.
        steps: of the whole run. A resumed one may be given more than it was started with, or fewer:
            then the cosine is drawn anew over the new length, and the run goes on at the step it
            has reached with the rate that this curve has there.
        warmup_steps: 100 unless given, or a tenth of the steps where those are fewer than 1000; of
            a resumed run those of its start.
        weight_decay: of matrices only.
        betas: AdamW's.
        max_grad_norm: gradients are scaled down to this norm.
        save_steps: steps from one checkpoint to the next; there is always one at the end.
        save_total_limit: how many checkpoints are kept, None for all.
        report_to: "tensorboard" (event files in ``output_dir/tensorboard``) or "none".
        resume: True for the newest complete checkpoint in ``output_dir`` (from the start where the
            run was killed before the first), or the path of one checkpoint. All settings but
            ``steps`` must be those the run was started with.
        tokenizer: saved with the model and each checkpoint.
        bf16: compute in bfloat16 under autocast; weights stay in float32.
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        progress: show a progress bar.
        settings: further facts (JSON values) that a resumed run must share with this one.

    Raises:
        ValueError: an argument out of range; a folder that is not empty, or that another run is
            writing into; checkpoints of which none is complete; a resumed run with other settings,
            or with fewer steps than it has reached; a loss that is no longer finite.
        SaveError: a checkpoint or the model could not be written, as on a full disk. What was saved
            before is whole.
        MissingExtra: accelerate or tensorboard is not installed.
    """
    require("accelerate", extra="text", why="Training")
    for name, count in {
        "steps": steps,
        "batch_size": batch_size,
        "eval_steps": eval_steps,
        "save_steps": save_steps,
    }.items():
        whole(name, count)
    number(
        "learning_rate", learning_rate, above=0.0, hint="; 1e-3 is a good start for a small model"
    )
    for name, value in {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}.items():
        number(name, value, least=0.0)
    for beta in betas:
        if not 0 <= number("betas", beta) < 1:
            raise ValueError(f"betas must be at least 0 and below 1, got {betas}.")
    for name, limit in {
        "eval_batch_size": eval_batch_size,
        "save_total_limit": save_total_limit,
    }.items():
        if limit is not None:
            whole(name, limit)
    whole("seed", seed, 0)
    if not 0 <= min_lr_ratio <= 1:
        raise ValueError(
            f"min_lr_ratio must be between 0 and 1, got {min_lr_ratio}; 0.1 is customary."
        )
    before = settings_of(output_dir, resume)
    first = at_start(before, "steps", steps)
    if warmup_steps is None:
        warmup_steps = min(100, steps // 10)
        if first != steps:
            warmup_steps = before.get("warmup_steps", warmup_steps)
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and below steps={steps}, got {warmup_steps}; a tenth "
            "of the steps is customary."
        )
    if report_to not in ("tensorboard", "none"):
        raise ValueError(f"report_to must be 'tensorboard' or 'none', got {report_to!r}.")
    for name, dataset in {"train_dataset": train_dataset, "eval_dataset": eval_dataset}.items():
        if isinstance(dataset, TextDataset) and dataset.tokens.max() >= model.config.vocab_size:
            raise ValueError(
                f"{name} holds token {int(dataset.tokens.max())}, but the model has "
                f"vocab_size={model.config.vocab_size}; build the model with "
                "vocab_size=len(tokenizer)."
            )

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    all_settings = {
        **(settings or {}),
        **dataset_settings("train", train_dataset),
        **dataset_settings("validation", eval_dataset),
        **config_settings(model.config),
        **{
            "steps": steps,
            "steps_at_start": first,
            "batch_size": batch_size,
            "processes": processes,
            "seed": seed,
            "learning_rate": learning_rate,
        },
        **{
            "warmup_steps": warmup_steps,
            "min_lr_ratio": min_lr_ratio,
            "weight_decay": weight_decay,
            "betas": list(betas),
        },
        **{
            "max_grad_norm": max_grad_norm,
            "bf16": bf16,
            "eval_steps": eval_steps,
            "save_steps": save_steps,
        },
    }
    with run_folder(output_dir, resume=bool(resume)) as folder:
        checkpoint = None
        if resume is True:
            require_same_settings(folder, all_settings, but="steps")
            checkpoint = latest_checkpoint(folder, processes, model)
        elif resume:
            checkpoint = require_complete(resume, processes, model)
            require_same_settings(checkpoint.parent, all_settings, but="steps")
        resumed_from = int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0
        if checkpoint:
            reached = max(found_checkpoints(checkpoint.parent))
            require_reachable("steps", steps, before.get("steps"), steps=steps, reached=reached)

        from graphformer.training.language.trainer import (
            LanguageTrainer,
            no_shard_bars,
            training_arguments,
        )

        used_cache = getattr(model.config, "use_cache", None)
        trainer = LanguageTrainer(
            model=model,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            progress=progress,
            callbacks=_tensorboard(folder, resumed_from) if report_to == "tensorboard" else None,
            args=training_arguments(
                output_dir=str(folder),
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=eval_batch_size or batch_size,
                learning_rate=learning_rate,
                warmup_steps=warmup_steps,
                lr_scheduler_kwargs={"min_lr_rate": min_lr_ratio},
                weight_decay=weight_decay,
                adam_beta1=betas[0],
                adam_beta2=betas[1],
                max_grad_norm=max_grad_norm,
                seed=seed,
                data_seed=seed,
                eval_steps=eval_steps,
                save_steps=save_steps,
                save_total_limit=save_total_limit,
                # A logged loss is the mean since the last log, and a resumed run starts a new mean:
                # logs must fall on checkpoints. The last step has one too, see EndIsLogged.
                logging_steps=math.gcd(LOG_STEPS, save_steps),
                bf16=bf16,
                gradient_checkpointing=gradient_checkpointing,
            ),
        )
        if is_main_process():
            save_settings(folder, all_settings)
        with no_shard_bars():
            trainer.continue_from(checkpoint)

            model.eval()
            # the Trainer turns the cache off; the saved model is for generating
            if used_cache is not None:
                model.config.use_cache = used_cache
            if is_main_process():
                with new_files(folder) as unfinished:
                    model.save_pretrained(unfinished)
                    if tokenizer is not None:
                        tokenizer.save_pretrained(unfinished)
    history = trainer.state.log_history
    last = [line for line in history if "eval_loss" in line][-1]
    return TrainingResult(
        model=model,
        output_dir=folder,
        steps=trainer.state.global_step,
        train_loss=[line["loss"] for line in history if "loss" in line][-1],
        evaluation=Evaluation(
            last["eval_loss"], last["eval_perplexity"], int(last["eval_num_tokens"])
        ),
        history=history,
        resumed_from=resumed_from,
    )


def _tensorboard(folder: Path, resumed_from: int) -> list[Any]:
    """Transformers' own callback, in a folder of its own; what a killed run wrote after its
    checkpoint is taken back.
    """
    require("tensorboard", extra="text", why="report_to='tensorboard'")
    if not is_main_process():
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    # also of a run that was killed before it saved anything
    before = (folder / CURVES_FOLDER).exists()
    return [
        TensorBoardCallback(
            SummaryWriter(
                str(folder / CURVES_FOLDER), purge_step=resumed_from + 1 if before else None
            )
        )
    ]
