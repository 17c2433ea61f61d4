"""A graph model with all that a prediction needs: weights, the scaling of inputs and targets, and
how its graphs were made.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch_geometric.data import Batch

import graphformer
from graphformer.attention.head import Head
from graphformer.attention.slot import Slot, spec
from graphformer.datasets import GraphDataset
from graphformer.errors import whole
from graphformer.models.graphs.base import GraphNetwork, GraphTransformerOutput
from graphformer.models.graphs.label_masks import Mask
from graphformer.models.graphs.targets import Target, target_loss
from graphformer.models.graphs.transformer import GraphTransformer
from graphformer.models.graphs.unread import forget_known, tell_unread
from graphformer.models.unmasked import refuse_masks
from graphformer.training.checkpoints import WEIGHTS, model_problems
from graphformer.training.file_checks import reading, tensor_names, weight_problems
from graphformer.training.graphs.batches import NodeBudgetSampler, graph_loader, graph_sizes
from graphformer.training.graphs.metrics import classification_metrics, regression_metrics
from graphformer.training.graphs.scaling import (
    Scaling,
    any_label,
    check_labels,
    labels_that_count,
)
from graphformer.training.run import GRAPH_MODEL
from graphformer.training.saving import new_files, write_text


@dataclass
class GraphModel:
    """A network over graphs, mostly a :class:`~graphformer.models.GraphTransformer`, that takes
    graphs as they are and answers in the unit of the labels.

    Attributes:
        net: the network; it sees scaled inputs and predicts scaled targets.
        scaling: see :class:`Scaling`.
        featuriser: how graphs are made from files, see :func:`featuriser_of`; empty where the data
            set did not tell.
    """

    net: GraphNetwork
    scaling: Scaling = field(default_factory=Scaling)
    featuriser: dict[str, Any] = field(default_factory=dict)

    def predict(self, dataset: Any, max_nodes: int = 4096) -> Tensor | dict[str, Tensor]:
        """The predictions for a data set or a list of ``Data``, on the CPU: ``[rows, out_dim]`` in
        the unit of the labels (logits of a classification), rows being graphs, nodes or edges in
        the order of the data; a dictionary for several targets.

        ``max_nodes`` is the budget of a batch and changes no result beyond rounding. Labels are not
        read.

        Raises:
            ValueError: an empty data set, or graphs that do not fit the network.
        """
        raw, _ = self._run(dataset, max_nodes)
        found = {name: self.scaling.restore(name, value) for name, value in raw.items()}
        return found["y"] if self.net.single else found

    @property
    def has_dropout(self) -> bool:
        """Whether passes with dropout differ."""
        return any(self.net.settings.get(name) for name in ("dropout", "attention_dropout"))

    def sample(
        self, dataset: Any, samples: int, max_nodes: int = 4096, *, seed: int = 0
    ) -> Tensor | dict[str, Tensor]:
        """Predictions of passes with dropout on, ``[samples, rows, out_dim]``, else as
        :meth:`predict`. Their spread tells how far the weights leave the answer open (Monte Carlo
        dropout: Gal and Ghahramani, ICML 2016). The same seed gives the same passes; other random
        numbers of the program are left as they are.

        Raises:
            ValueError: a network without dropout, fewer than 2 samples; as :meth:`predict`.
        """
        whole("samples", samples, 2)
        if not self.has_dropout:
            raise ValueError(
                "samples: the model has no dropout, so all passes would agree; train it with "
                "dropout above 0."
            )
        device = next(self.net.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            passes = [self._run(dataset, max_nodes, dropout=True)[0] for _ in range(samples)]
        found = {
            name: torch.stack([self.scaling.restore(name, one[name]) for one in passes])
            for name in passes[0]
        }
        return found["y"] if self.net.single else found

    @torch.no_grad()
    def output(self, data: Any) -> GraphTransformerOutput:
        """All that the network says of one ``Data`` or ``Batch``: its graphs and refined graphs
        too. Predictions are in the unit of the labels, and there is no loss.
        """
        was_training, data = self.net.training, copy.copy(data)
        for name in self.net.targets:
            if data.get(label := self.net.label(name, data)) is not None:
                del data[label]
        out = self.net.eval()(
            self.scaling.inputs(data.to(next(self.net.parameters()).device)), output_graphs=True
        )
        self.net.train(was_training)
        raw = {"y": out.prediction} if self.net.single else out.prediction
        found = {name: self.scaling.restore(name, value) for name, value in raw.items()}
        out.prediction = found["y"] if self.net.single else found
        return out

    def evaluate(
        self, dataset: Any, max_nodes: int = 4096, *, mask: str | None = None
    ) -> dict[str, float]:
        """``loss`` (of scaled targets, the exact mean over the labels that are there) and the
        metrics in the unit of the labels: ``mae``, ``rmse``, ``r2``, ``pearson``, or ``accuracy``,
        ``f1`` (and ``auroc`` of two classes); for several targets with the target's name before
        them: ``gap_mae``. Of data with masks the labels count that ``mask`` marks: the name of a
        mask, or ``"all"``; unless given, ``val_mask``, or ``test_mask`` where there is no
        ``val_mask``.

        Raises:
            ValueError: a data set without labels, or none that counts; a mask that does not fit.
        """
        raw, labels = self._run(dataset, max_nodes, mask, with_labels=True)
        if labels and not any(any_label(self.net.targets[name], y) for name, y in labels.items()):
            raise ValueError(
                "no label counts in this evaluation: all are missing, or the mask is false "
                "everywhere."
            )
        found = {"loss": 0.0}
        for name, target in self.net.targets.items():
            if name not in labels:
                raise ValueError(
                    f"data.{name} is missing: an evaluation needs labels; use predict without them."
                )
            if target.task == "regression":
                rows = labels[name].reshape(-1, target.out_dim)
                check_labels(rows, name, logs=name in self.scaling.logs, place=target.place)
            scaled = self.scaling.apply(name, labels[name])
            found["loss"] += target.weight * float(target_loss(raw[name], scaled, target, name))
            measure = (
                classification_metrics if target.task == "classification" else regression_metrics
            )
            values = measure(self.scaling.restore(name, raw[name]), labels[name])
            found.update(
                values
                if self.net.single
                else {f"{name}_{key}": value for key, value in values.items()}
            )
        return found

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` (weights) and ``config.json`` (settings of the network,
        scaling, featuriser) into a folder.

        Raises:
            ValueError: a setting that has no plain form; the error names it.
        """
        weights = {
            name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()
        }
        with new_files(Path(folder)) as unfinished:
            self.save_config(unfinished)
            save_file(weights, unfinished / "model.safetensors", metadata={"format": "pt"})

    def save_config(self, folder: str | Path) -> None:
        """``config.json`` alone, written in one step."""
        config = {
            "kind": GRAPH_MODEL,
            "graphformer": graphformer.__version__,
            "settings": plain_settings(self.net.settings),
            "scaling": self.scaling.to_dict(),
            "featuriser": self.featuriser,
        }
        write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")

    @torch.no_grad()
    def _run(
        self,
        dataset: Any,
        max_nodes: int,
        mask: Mask = None,
        *,
        with_labels: bool = False,
        dropout: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The network's own predictions and the labels that count, the others missing, joined over
        batches.
        """
        sizes = graph_sizes(dataset)
        tell_fields(self.net, dataset)
        # A graph that is larger than the budget must be predicted all the same: no warning.
        sampler = NodeBudgetSampler(sizes, max(max_nodes, int(sizes.max()), 1))
        device, was_training = next(self.net.parameters()).device, self.net.training
        self.net.train(dropout)
        # Encodings of nodes and the choice of labels are those of an evaluation all the same.
        self.net.training = False
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):  # what it learned stands, whatever is dropped
                module.eval()
        found: dict[str, list[Tensor]] = {name: [] for name in self.net.targets}
        labels: dict[str, list[Tensor]] = {}
        try:
            # labels that nobody asks for may be there or not
            reads = self.net.reads() - (set() if with_labels else {"edge_label", *self.net.targets})
            for batch in graph_loader(dataset, sampler, reads):
                data = copy.copy(batch["data"])
                held = [
                    name
                    for name in self.net.targets
                    if data.get(self.net.label(name, data)) is not None
                ]
                for name in held if with_labels else ():
                    labels.setdefault(name, []).append(
                        labels_that_count(self.net, name, data, training=False, mask=mask)
                    )
                for name in held:
                    del data[self.net.label(name, data)]
                out = self.net(self.scaling.inputs(data.to(device))).prediction
                for name, value in ({"y": out} if self.net.single else out).items():
                    found[name].append(value.cpu())
        finally:
            self.net.train(was_training)
        return {name: torch.cat(parts) for name, parts in found.items()}, {
            name: torch.cat(parts) for name, parts in labels.items()
        }


def tell_fields(net: GraphNetwork, dataset: Any) -> None:
    """Tell what the net does not read of the first graph, as it is: scaling would hide what repeats
    what.
    """
    if isinstance(dataset, GraphDataset):
        forget_known(dataset[0], net.told)
    tell_unread(dataset[0], net.reads(), net.told, type(net).__name__)


def load_graph_model(folder: str | Path) -> GraphModel:
    """The model that :meth:`GraphModel.save` or a training run (also one of its checkpoints) wrote,
    in evaluation mode, on the CPU.

    Raises:
        ValueError: a folder that holds no complete model, or a model of another kind.
    """
    if problems := model_problems(folder):
        raise ValueError(
            f"{str(folder)!r} holds no complete model ({'; '.join(problems)}); give a folder that "
            "graphformer train-graphs has finished, or one of its checkpoints."
        )
    folder, remedy = Path(folder), "put back the files of one run, or give another folder"
    config = json.loads((folder / "config.json").read_bytes())
    if config.get("kind") != GRAPH_MODEL:
        raise ValueError(
            f"{str(folder)!r} holds a model of another kind; give a folder that graphformer "
            "train-graphs wrote."
        )
    with reading(folder / "config.json", remedy):
        settings = dict(config["settings"])
        if isinstance(settings["target"], Mapping):
            settings["target"] = {
                name: Target.read(one) for name, one in settings["target"].items()
            }
        elif isinstance(settings["target"], list):  # one Target that was given as an object
            settings["target"] = Target(**settings["target"][0])
        model = GraphModel(
            GraphTransformer(**settings),
            Scaling.from_dict(config["scaling"]),
            dict(config["featuriser"]),
        )
        if model.featuriser:
            dict(model.featuriser["options"])
            for names in ("node_names", "edge_names", "target_names"):
                list(model.featuriser[names])
    refuse_masks(folder, tensor_names([folder / WEIGHTS]))
    with reading(folder / WEIGHTS, remedy):
        if problems := weight_problems([folder / WEIGHTS], model.net):
            raise ValueError(f"the weights do not fit config.json: {'; '.join(problems)}")
        model.net.load_state_dict(load_file(folder / WEIGHTS))
    for name, value in model.net.named_parameters():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{str(folder)!r}: {name} holds numbers that are not finite; {remedy}."
            )
    model.net.eval()
    return model


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a GraphTransformer as values that JSON holds.

    Raises:
        ValueError: an object that has no plain form.
    """
    made = {name: _plain(name, value) for name, value in settings.items()}
    if isinstance(settings["target"], Target):
        made["target"] = [made["target"]]
    return made


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (Slot, Head)):
        try:
            return value.spec() if isinstance(value, Head) else spec(value)
        except ValueError as error:
            raise ValueError(f"{name} cannot be saved with the model: {error}") from None
    if isinstance(value, Target):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(
        f"{name}: a {type(value).__name__} cannot be saved with the model; give it by its name."
    )


def try_one(net: GraphNetwork, scaling: Scaling, graph: Any) -> None:
    """Run the network on a graph: what it needs and the data lack (positions, groups) is told
    before a folder is made, and not by the first step.
    """
    trained = net.training
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        try:
            net.eval()(scaling.batch(net, Batch.from_data_list([graph])))
        finally:
            net.train(trained)
