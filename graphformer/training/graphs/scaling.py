"""Scaling of inputs and targets by the training set: networks learn best from numbers of mean 0 and
spread 1.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.relations import EdgeColumns, check
from graphformer.errors import require_known, strict_flags
from graphformer.models.graphs.label_masks import MASKS, Mask, without_uncounted
from graphformer.models.graphs.targets import Target

KINDS = ("standard", "log", "none")


@dataclass
class Scaling:
    """What is subtracted and divided by, column by column; the identity for a name that is not
    there.

    Attributes:
        means, spreads: by name (``x``, ``edge_attr``, and each target): a number a column. A column
            without spread is only shifted.
        logs: targets whose logarithm is taken first.
    """

    means: dict[str, list[float]] = field(default_factory=dict)
    spreads: dict[str, list[float]] = field(default_factory=dict)
    logs: tuple[str, ...] = ()

    @classmethod
    @strict_flags
    def fit(cls, net: Any, dataset: Any, targets: str = "standard", inputs: bool = True) -> Scaling:
        """From the training set: inputs that are numbers (not categories), and the targets of
        regressions.

        Args:
            net: a GraphTransformer; it tells which targets there are and which inputs are read as
                numbers.
            dataset: graphs with labels; NaN labels are left out, and those that ``train_mask`` does
                not mark.
            targets: ``"standard"``: mean and spread; ``"log"``: of the logarithm, for positive
                quantities over orders of magnitude; ``"none"``: targets stay as they are.
            inputs: scale ``x`` and ``edge_attr`` too, but for columns that a relation reads.

        Raises:
            ValueError: a target without any label, an infinite one, or one that is not positive
                where logarithms are asked for.
        """
        require_known("target_scaling", targets, KINDS)
        graphs = [dataset[i] for i in range(len(dataset))]
        made = cls()
        if inputs:
            for name, width in (
                ("x", net.settings["node_dim"]),
                ("edge_attr", net.settings["edge_dim"]),
            ):
                columns = [g[name] for g in graphs if g.get(name) is not None]
                require_finite(name, graphs)
                if (
                    isinstance(width, int)
                    and width
                    and columns
                    and all(c.is_floating_point() and c.ndim == 2 for c in columns)
                ):
                    made._add(name, columns, columns[0].shape[1])
        if "edge_attr" in made.means:
            for column in _of_types(net):
                if column < len(made.means["edge_attr"]):  # else the network refuses the data
                    made.means["edge_attr"][column] = 0.0
                    made.spreads["edge_attr"][column] = 1.0
        for name, target in net.targets.items():
            label = net.label(name, graphs[0])
            columns = [
                labels_that_count(net, name, g, training=True)
                for g in graphs
                if g.get(label) is not None
            ]
            if not any(any_label(target, c) for c in columns):
                masked = (
                    ", and train_mask marks none of them"
                    if any(g.get("train_mask") is not None for g in graphs)
                    else ""
                )
                raise ValueError(
                    f"train_dataset has no label data.{label} at all{masked}; give targets, or "
                    "name another target."
                )
            _tell_empty_columns(target, columns, label)
            if target.task != "regression" or targets == "none":
                continue
            check_labels(columns, label, logs=targets == "log")
            if targets == "log":
                made.logs += (name,)
                columns = [c.log() for c in columns]
            made._add(name, columns, target.out_dim)
        return made

    def apply(self, name: str, value: Tensor) -> Tensor:
        """Labels (as many numbers as rows x columns) to ``[rows, columns]`` as the network sees
        them.
        """
        if name in self.logs:
            value = value.log()
        if name not in self.means:
            return value
        mean, spread = self._columns(name, value)
        return (value.reshape(-1, len(mean)) - mean) / spread

    def restore(self, name: str, value: Tensor) -> Tensor:
        """The inverse of :meth:`apply`, of predictions ``[rows, columns]``."""
        if name in self.means:
            mean, spread = self._columns(name, value)
            value = value * spread + mean
        return value.exp() if name in self.logs else value

    def inputs(self, data: Any) -> Any:
        """A shallow copy of the data with scaled ``x`` and ``edge_attr``."""
        data = copy.copy(data)
        for name in ("x", "edge_attr"):
            value = data.get(name)
            if (
                name in self.means
                and value is not None
                and value.ndim == 2
                and value.shape[1] == len(self.means[name])
            ):
                # another width is refused by the network, with its name
                data[name] = self.apply(name, value)
        return data

    def batch(self, net: Any, data: Any) -> Any:
        """The same, with scaled labels too."""
        data = self.inputs(data)
        for name in net.targets:
            label = net.label(name, data)
            if data.get(label) is not None:
                data[label] = self.apply(name, data[label])
        return data

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"means": self.means, "spreads": self.spreads, "logs": list(self.logs)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Scaling:
        return cls(value["means"], value["spreads"], tuple(value["logs"]))

    def _columns(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        mean, spread = (
            torch.tensor(kept[name], dtype=dtype, device=like.device)
            for kept in (self.means, self.spreads)
        )
        return mean, spread

    def _add(self, name: str, parts: Sequence[Tensor], width: int) -> None:
        values = torch.cat([part.reshape(-1, width).double() for part in parts])
        present = ~values.isnan()
        number = present.sum(0).clamp(min=1)
        mean = values.nansum(0) / number
        spread = (torch.where(present, values - mean, 0.0).square().sum(0) / number).sqrt()
        spread = torch.where(spread > 1e-6 * mean.abs().clamp(min=1e-12), spread, 1.0)
        self.means[name], self.spreads[name] = mean.tolist(), spread.tolist()


def _of_types(net: Any) -> set[int]:
    """Columns of ``edge_attr`` that are 1 for an edge of a type, to relations that read them."""
    found = check(net.settings.get("relations"))
    return {column for one in found if isinstance(one, EdgeColumns) for column in one.columns}


def fingerprint(net: Any, dataset: Any) -> str:
    """A hash of what training reads: nodes, edges, features, labels and masks of every graph."""
    found = hashlib.sha256()
    for i in range(len(dataset)):
        data = dataset[i]
        for name in (
            "x",
            "edge_index",
            "edge_attr",
            "u",
            *(["edge_type"] if "edge_type" in net.reads() else []),
            *(net.label(target, data) for target in net.targets),
            *MASKS,
        ):
            value = data.get(name)
            if isinstance(value, Tensor):
                found.update(
                    f"{name}{list(value.shape)}".encode()
                    + value.detach().cpu().contiguous().numpy().tobytes()
                )
    return found.hexdigest()[:16]


def labels_that_count(
    net: Any, name: str, data: Any, *, training: bool, mask: Mask = None
) -> Tensor:
    """A target's labels, those that do not count (:mod:`graphformer.models.graphs.label_masks`)
    turned into missing ones.
    """
    target, y = net.targets[name], data[net.label(name, data)]
    keep = net.counted(name, data, mask, training=training)
    return without_uncounted(y, keep, target.out_dim, target.task == "classification")


def any_label(target: Target, y: Tensor) -> bool:
    """Whether some label is there: not NaN, and of classes not negative."""
    return bool((y >= 0 if target.task == "classification" else ~y.isnan()).any())


def _tell_empty_columns(target: Target, columns: Sequence[Tensor], label: str) -> None:
    """A warning for columns of labels that are missing in the whole training set."""
    width = target.out_dim
    if target.task == "classification" and any(c.shape[-1:] != (width,) for c in columns):
        return  # one class a row
    values = torch.cat([column.reshape(-1, width) for column in columns])
    there = values >= 0 if target.task == "classification" else ~values.isnan()
    if empty := [str(i) for i in range(width) if not bool(there[:, i].any())]:
        warnings.warn(
            f"train_dataset has no label in column {', '.join(empty)} of data.{label}: what is "
            "predicted there is not trained. Leave the column out, or give labels",
            stacklevel=2,
        )


def require_finite(name: str, graphs: Iterable[Any]) -> None:
    """ValueError for a graph whose input of that name holds NaN or infinite numbers."""
    for number, graph in enumerate(graphs):
        value = graph.get(name)
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"data.{name} of graph {number} holds NaN or infinite values; impute them, or "
                "leave the graph out"
            )


def check_labels(rows: Iterable[Tensor], label: str, logs: bool, place: str = "graph") -> None:
    """Labels of a regression, one ``place`` after the other, that can be scaled.

    Raises:
        ValueError: an infinite one, or one that has no logarithm.
    """
    for number, value in enumerate(rows):
        if bool(value.isinf().any()):
            raise ValueError(
                f"data.{label} of {place} {number} is infinite; use NaN for a missing label."
            )
        if logs and bool((value <= 0).any()):
            raise ValueError(
                f"target_scaling='log' needs positive labels, and data.{label} of {place} {number} "
                f"has {float(value.min()):g}; use 'standard'."
            )
