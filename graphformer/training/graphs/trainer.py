"""Train a graph model, with checkpoints from which a killed run continues as if nothing had
happened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from graphformer.datasets.readers import featuriser_of
from graphformer.errors import number, require, strict_flags, whole
from graphformer.models.graphs.base import GraphNetwork
from graphformer.models.graphs.label_masks import undecided
from graphformer.training.checkpoints import (
    found_checkpoints,
    latest_checkpoint,
    require_complete,
)
from graphformer.training.graphs.batches import NodeBudgetSampler, graph_loader, graph_sizes
from graphformer.training.graphs.callbacks import (
    EpochEnds,
    GraphProgress,
    graph_arguments,
    read_state,
    stopped_early,
)
from graphformer.training.graphs.model import GraphModel, plain_settings, tell_fields, try_one
from graphformer.training.graphs.scaling import Scaling, fingerprint
from graphformer.training.length import at_start, require_reachable, settings_of
from graphformer.training.parameters import ParameterLog
from graphformer.training.resumable import ResumableTrainer, StopWhenDiverged
from graphformer.training.run import (
    is_main_process,
    require_same_settings,
    run_folder,
    save_settings,
)


@dataclass(frozen=True)
class GraphTrainingResult:
    """What a run came to.

    Attributes:
        model: network (the one that was passed in), scaling and featuriser; in evaluation mode.
        steps, epochs: taken in all, those before a resume included. Early stopping may make them
            fewer than asked for.
        metrics: of the validation set, of the kept weights: ``loss``, ``mae``, ``rmse``,
            ``r2``, ...; empty without a validation set.
        history: the Trainer's log of the whole run, one dict a line.
        resumed_from: the step at which this call went on, 0 for a new run.
    """

    model: GraphModel
    steps: int
    epochs: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    resumed_from: int


class GraphTrainer(ResumableTrainer):
    """transformers' Trainer for a :class:`~graphformer.models.GraphTransformer`.

    >>> trainer = GraphTrainer(net, train, validation, "runs/first", epochs=50, patience=10)
    >>> result = trainer.fit()
    >>> trainer.predict(test)  # [graphs, out_dim], in the unit of the labels

    Batches are filled up to ``max_nodes`` nodes. Inputs and targets are scaled by the training set;
    the loss is that of scaled targets, metrics are in the unit of the labels, and NaN labels are
    left out of both. Of data with masks ``train_mask`` chooses the labels that are trained on (and
    scaled by), ``val_mask`` those of the evaluation: one graph can be both data sets. After every
    ``eval_epochs`` epochs (and the last) the validation set is evaluated and a checkpoint is
    written. AdamW; the learning rate rises linearly for ``warmup`` of the steps and falls along a
    cosine to ``min_lr_ratio`` of it. With a validation set the weights of the lowest validation
    loss are kept in the end.

    The same seed gives the same run. Under torchrun each process takes its share of each epoch's
    batches.

    Args:
        net: the network. Its weights are trained in place.
        train_dataset: graphs with labels: a GraphDataset or a list of ``Data``.
        eval_dataset: the same, for validation; None does without.
        output_dir: where model and checkpoints go.
        epochs: passes through the training set. A resumed run may be given more than it was started
            with, or fewer: then the cosine is drawn anew over the new length, the linear rise is
            that of its start, and early stopping goes on.
        max_nodes: nodes of a batch **and process**.
        patience: stop after so many evaluations without a lower validation loss; None never stops
            early.
        learning_rate, weight_decay, max_grad_norm: of AdamW; gradients are scaled down to this
            norm.
        warmup: part of all steps.
        min_lr_ratio: the part of the learning rate that is left at the end; 1 keeps it constant.
        target_scaling: ``"standard"``, ``"log"`` or ``"none"``, see :meth:`Scaling.fit`.
        input_scaling: scale ``x`` and ``edge_attr``.
        seed: order of the graphs, dropout and all else.
        eval_epochs: epochs from one evaluation and checkpoint to the next.
        save_total_limit: how many checkpoints are kept (the best one besides), None for all.
        progress: show a progress bar.

    Raises:
        ValueError: an argument out of range, an empty data set, or one without labels.
        MissingExtra: accelerate is not installed.
    """

    @strict_flags
    def __init__(
        self,
        net: GraphNetwork,
        train_dataset: Any,
        eval_dataset: Any,
        output_dir: str | Path,
        *,
        epochs: int,
        max_nodes: int = 1024,
        patience: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        warmup: float = 0.05,
        min_lr_ratio: float = 0.0,
        target_scaling: str = "standard",
        input_scaling: bool = True,
        seed: int = 0,
        eval_epochs: int = 1,
        save_total_limit: int | None = 2,
        progress: bool = True,
    ) -> None:
        require("accelerate", extra="graphs", why="Training")
        counts = {
            "epochs": epochs,
            "max_nodes": max_nodes,
            "eval_epochs": eval_epochs,
            "patience": 1 if patience is None else patience,
        }
        for name, count in counts.items():
            whole(name, count)
        if save_total_limit is not None:
            whole("save_total_limit", save_total_limit)
        whole("seed", seed, 0)
        number("learning_rate", learning_rate, above=0.0, hint="; 1e-3 is a good start")
        for name, value in {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}.items():
            number(name, value, least=0.0)
        if not 0 <= warmup < 1:
            raise ValueError(
                f"warmup must be at least 0 and below 1, got {warmup}; 0.05 is customary."
            )
        if not 0 <= min_lr_ratio <= 1:
            raise ValueError(
                f"min_lr_ratio must be between 0 and 1, got {min_lr_ratio}; 0 is customary."
            )
        if patience is not None and eval_dataset is None:
            raise ValueError(
                "patience needs a validation set: give eval_dataset, or patience=None."
            )
        plain = plain_settings(net.settings)  # refused now, before hours of training
        sizes = graph_sizes(train_dataset, "train_dataset")
        if eval_dataset is not None:
            graph_sizes(eval_dataset, "eval_dataset")
        tell_fields(net, train_dataset)
        scaling = Scaling.fit(net, train_dataset, target_scaling, input_scaling)
        try_one(net, scaling, train_dataset[0])
        for graph in () if eval_dataset is None else eval_dataset:
            if why := undecided(graph, training=False):
                raise ValueError(f"eval_dataset: {why}")
        self.graph_model = GraphModel(net, scaling, featuriser_of(train_dataset))
        rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.batches = NodeBudgetSampler(
            sizes, max_nodes, shuffle=True, seed=seed, epochs=epochs, rank=rank, processes=processes
        )
        self.run_settings = {
            **{f"model.{name}": value for name, value in plain.items() if name != "backend"},
            **{
                "train.graphs": fingerprint(net, train_dataset),
                "epochs": epochs,
                "max_nodes": max_nodes,
                "processes": processes,
            },
            **{
                "validation.graphs": None
                if eval_dataset is None
                else fingerprint(net, eval_dataset),
                "patience": patience,
            },
            **{
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "warmup": warmup,
                "warmup_steps": round(warmup * len(self.batches)),
                "min_lr_ratio": min_lr_ratio,
            },
            **{
                "target_scaling": target_scaling,
                "input_scaling": input_scaling,
                "seed": seed,
                "eval_epochs": eval_epochs,
            },
        }
        steps, self.folder = len(self.batches), Path(output_dir)
        super().__init__(
            model=net,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[
                EpochEnds(self.batches.ends, eval_epochs, evaluate=eval_dataset is not None)
            ],
            args=graph_arguments(
                validates=eval_dataset is not None,
                output_dir=str(output_dir),
                max_steps=steps,
                learning_rate=learning_rate,
                warmup_steps=self.run_settings["warmup_steps"],
                lr_scheduler_kwargs={"min_lr_rate": min_lr_ratio},
                weight_decay=weight_decay,
                max_grad_norm=max_grad_norm,
                seed=seed,
                data_seed=seed,
                save_total_limit=save_total_limit,
                # a batch without a target's labels gives its head no gradient
                ddp_find_unused_parameters=not net.single,
            ),
        )
        # the Trainer's choice where its own progress bar is off
        self.remove_callback(PrinterCallback)
        self.add_callback(StopWhenDiverged())
        self.add_callback(ParameterLog(net, output_dir))
        if patience is not None:
            self.add_callback(EarlyStoppingCallback(patience))
        self.patience = patience
        if progress and is_main_process():
            self.add_callback(GraphProgress())
            self.tell = tqdm.write

    def fit(self, resume: bool | str | Path = False) -> GraphTrainingResult:
        """Train to the last epoch or until early stopping, and save the model in ``output_dir``.

        Args:
            resume: True for the newest complete checkpoint in ``output_dir`` (from the start where
                there is none yet), or the path of one. All settings but ``epochs`` must be those
                the run was started with; weights then come out as without the interruption.

        Raises:
            ValueError: a folder that is not empty, or that another run is writing into; checkpoints
                of which none is complete; a resumed run with other settings or data, with fewer
                epochs than it has reached, or with more of them where early stopping has ended it;
                a loss that is no longer finite.
            SaveError: a checkpoint or the model could not be written, as on a full disk. What was
                saved before is whole.
        """
        with run_folder(self.folder, resume=bool(resume)) as folder:
            return self._fit(folder, resume)

    def _fit(self, folder: Path, resume: bool | str | Path) -> GraphTrainingResult:
        processes, net, checkpoint = self.batches.processes, self.graph_model.net, None
        before = settings_of(folder, resume)
        self._keep_warmup(before)
        if resume is True:
            require_same_settings(folder, self.run_settings, but="epochs")
            checkpoint = latest_checkpoint(folder, processes, net)
        elif resume:
            checkpoint = require_complete(resume, processes, net)
            require_same_settings(checkpoint.parent, self.run_settings, but="epochs")
        resumed_from = int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0
        if checkpoint is not None:
            self._require_reachable(before.get("epochs"), checkpoint)
        if is_main_process():
            save_settings(folder, self.run_settings)
        if checkpoint is None or not self._finished(checkpoint):
            set_seed(self.args.seed)  # what ran since the constructor does not count
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.graph_model.net.eval()
        if is_main_process():
            self.graph_model.save(folder)
        metrics = (
            {}
            if self.eval_dataset is None
            else self.graph_model.evaluate(self.eval_dataset, self.batches.max_nodes)
        )
        steps = self.state.global_step
        return GraphTrainingResult(
            model=self.graph_model,
            steps=steps,
            epochs=int(np.searchsorted(self.batches.ends, steps)) + 1,
            metrics=metrics,
            history=self.state.log_history,
            resumed_from=resumed_from,
        )

    def save(self, folder: str | Path) -> None:
        """Save the model as it is now; see :meth:`GraphModel.save`."""
        self.graph_model.save(folder)

    def predict(self, dataset: Any, max_nodes: int | None = None) -> Tensor | dict[str, Tensor]:  # type: ignore[override]
        """Predictions in the unit of the labels; see :meth:`GraphModel.predict`."""
        return self.graph_model.predict(dataset, max_nodes or self.batches.max_nodes)

    # ------------------------------------------------------------------ what the Trainer asks for

    def get_train_dataloader(self) -> DataLoader:
        """All epochs of the run in one pass, already this process's share."""
        return graph_loader(self.train_dataset, self.batches, self.graph_model.net.reads())

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"data": inputs["data"].to(self.args.device)}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of scaled targets."""
        out = model(self.graph_model.scaling.batch(self.graph_model.net, inputs["data"]))
        if out.loss is None:
            names = ", ".join(f"data.{name}" for name in self.graph_model.net.targets)
            raise ValueError(
                f"a batch of train_dataset has no {names} at all: give all graphs labels, those "
                "that are missing as NaN"
            )
        return (out.loss, out) if return_outputs else out.loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
        *,
        mask: str | None = None,
    ) -> dict[str, float]:
        """The exact metrics of a data set, the same in every process; ``mask``: see
        :meth:`GraphModel.evaluate`.
        """
        if ignore_keys is not None:
            raise ValueError(
                f"ignore_keys={ignore_keys!r} has no use here: metrics are made of predictions and "
                "labels alone; leave it out"
            )
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        found = self.graph_model.evaluate(dataset, self.batches.max_nodes, mask=mask)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.graph_model.save_config(output_dir or self.folder)

    def _keep_warmup(self, before: dict[str, Any]) -> None:
        """The steps of the linear rise of a run that is resumed, whatever its length is now."""
        first = at_start(before, "epochs", self.run_settings["epochs"])
        self.run_settings["epochs_at_start"] = first
        if first == self.run_settings["epochs"]:
            return
        kept = before.get("warmup_steps")
        if kept is None:  # of an earlier version
            kept = round(self.run_settings["warmup"] * self.batches.ends_of(first)[-1])
        self.run_settings["warmup_steps"] = self.args.warmup_steps = kept

    def _require_reachable(self, planned: int | None, checkpoint: Path) -> None:
        epochs, reached = self.run_settings["epochs"], max(found_checkpoints(checkpoint.parent))
        require_reachable("epochs", epochs, planned, steps=self.args.max_steps, reached=reached)
        if planned not in (None, epochs) and stopped_early(read_state(checkpoint), self.patience):
            raise ValueError(
                f"epochs={epochs}: early stopping (patience={self.patience}) has ended the run at "
                f"step {reached}, not its epochs={planned}, so that more of them change nothing; "
                "start a new run with more patience in another folder."
            )

    def _finished(self, checkpoint: Path) -> bool:
        """Whether this checkpoint is a run's last; then its result is loaded. The Trainer itself
        would take a step more.
        """
        state = read_state(checkpoint)
        if state.global_step < self.args.max_steps and not stopped_early(state, self.patience):
            return False
        # verified with this one
        best = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
        self._load_from_checkpoint(str(best if state.best_global_step else checkpoint))
        self.state = state
        return True
