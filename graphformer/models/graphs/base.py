"""What every network over graphs does alike: features to nodes at the start, levels of nodes to
predictions and a loss at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.errors import strict_flags, whole
from graphformer.graph import AttentionGraph
from graphformer.models.graphs.data import Level, read_structure
from graphformer.models.graphs.features import FeatureEncoder
from graphformer.models.graphs.label_masks import (
    MASKS,
    Mask,
    counted,
    held_masks,
    masked_place,
    num_rows,
    undecided,
)
from graphformer.models.graphs.parts import Readout
from graphformer.models.graphs.targets import Target, TargetHead, target_loss
from graphformer.models.graphs.unread import tell_sampled, tell_unread
from graphformer.nn.edge_list import check_ends
from graphformer.nn.encodings import encode_nodes, encoding
from graphformer.nn.graph_inputs import refuse_nan
from graphformer.nn.mlp import probability
from graphformer.nn.pairs import stored_name


@dataclass
class GraphTransformerOutput:
    """What a forward pass returns.

    Attributes:
        prediction: ``[rows, out_dim]``, rows being graphs, nodes or edges (logits of a
            classification); a dictionary for several targets.
        loss: a scalar, or None where the batch holds no labels; over the labels that count, see
            :mod:`graphformer.models.graphs.label_masks`.
        losses: the loss of each target by its name, before weighting.
        graphs: with ``output_graphs=True``, the heads' graphs, lanes ``(num_heads,)``: layer by
            layer, in each the finest level first. The graph of layer l at level v is number
            ``l * num_levels + v``.
        refined: the same of the merged graphs, one lane each.
        groups: for each level above the finest, the node there that each node of the level below
            belongs to.
    """

    prediction: Tensor | dict[str, Tensor]
    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    graphs: tuple[AttentionGraph, ...] | None = None
    refined: tuple[AttentionGraph, ...] | None = None
    groups: tuple[Tensor, ...] | None = None


class GraphNetwork(nn.Module):
    """The two ends of a network over graphs: a subclass computes what is between :meth:`embed` and
    :meth:`answer`.

    ``settings`` must hold the constructor's arguments, ``node_dim`` and ``edge_dim`` among them:
    training scales inputs and saves models by them. Arguments:
    :class:`~graphformer.models.GraphTransformer`; ``num_levels``: levels that graph targets are
    read from.
    """

    settings: dict[str, Any]

    def __init__(
        self,
        node_dim: int | Sequence[int],
        edge_dim: int | Sequence[int] | None,
        hidden_size: int,
        target: str | Target | Mapping[str, Any],
        out_dim: int,
        task: str,
        *,
        loss: str,
        encodings: Sequence[str],
        edge_hidden: int,
        global_dim: int,
        readout: Sequence[str],
        dropout: float,
        num_levels: int = 1,
    ) -> None:
        super().__init__()
        whole("edge_hidden", edge_hidden)
        whole("global_dim", global_dim, 0)
        whole("hidden_size", hidden_size)
        probability("dropout", dropout)
        self.global_dim, self.edge_dim = global_dim, edge_dim
        described = [
            encoding(spec) for spec in ([encodings] if isinstance(encodings, str) else encodings)
        ]
        self.node_encodings = [one for one in described if not one.of_pairs]
        self.pair_encodings = [one for one in described if one.of_pairs]
        self.node_features = FeatureEncoder("x", "node_dim", node_dim, hidden_size)
        self.encoding_maps = nn.ModuleList(
            nn.Linear(one.width, hidden_size, bias=False) for one in self.node_encodings
        )
        self.global_map = nn.Linear(global_dim, hidden_size, bias=False) if global_dim else None
        self.edge_features = (
            None
            if edge_dim is None
            else FeatureEncoder("edge_attr", "edge_dim", edge_dim, edge_hidden)
        )

        if (
            target
            and not isinstance(target, str)
            and (out_dim, task, loss) != (1, "regression", "mse")
        ):
            raise ValueError(
                f"out_dim={out_dim}, task={task!r} and loss={loss!r} describe one target that is "
                "given by its place; give them to each Target(place, out_dim, task, loss)"
            )
        named = {"y": Target(target, out_dim, task, loss)} if isinstance(target, str) else target
        self.single = not isinstance(named, Mapping) or isinstance(target, str)
        self.targets = (
            {"y": Target.read(named)}
            if isinstance(named, Target)
            else {name: Target.read(one) for name, one in named.items()}
        )
        if not self.targets:
            raise ValueError("target is an empty dictionary: name at least one target")
        places = {one.place for one in self.targets.values()}
        self.readout = Readout(hidden_size, num_levels, readout) if "graph" in places else None
        self.node_norm = nn.LayerNorm(hidden_size) if places - {"graph"} else None
        widths = {
            "graph": (self.readout.width if self.readout else 0) + global_dim,
            "node": hidden_size,
            "edge": 2 * hidden_size + (0 if edge_dim is None else edge_hidden),
        }
        self.heads = nn.ModuleDict(
            {
                name: TargetHead(widths[one.place], hidden_size, one, dropout)
                for name, one in self.targets.items()
            }
        )
        self.told: set[str] = set()  # attributes of the data that are not read and were told

    def reads(self) -> set[str]:
        """The names of the attributes of data that this network reads; a subclass that reads more
        adds them.
        """
        named = {
            "edge_index",
            "batch",
            "ptr",
            "num_nodes",
            "batch_size",
            "input_id",
            "n_id",
            "e_id",
            *MASKS,
            *self.targets,
        }
        if any(one.place == "edge" for one in self.targets.values()):
            named |= {"edge_label_index", "edge_label"}
        if self.node_features.dim != 0:
            named.add("x")
        if self.edge_dim is not None:
            named.add("edge_attr")
        if self.global_dim:
            named.add("u")
        if any(one.spec.partition(":")[0] == "distance" for one in self.pair_encodings):
            named.add("pos")
        return named | {stored_name("encoding", one.spec) for one in self.node_encodings}

    def embed(self, data: Any) -> Level:
        """The data, checked, as the finest level: nodes with their features, encodings and graph
        inputs.
        """
        structure = read_structure(data)
        if not torch.compiler.is_compiling():
            tell_unread(data, self.reads(), self.told, type(self).__name__)
            made = [one.spec for one in self.node_encodings]
            tell_sampled(data, made, structure.stored, self.told)
        nodes, dtype = structure.num_nodes, self._dtype()
        h = self.node_features(data.x, nodes, dtype)
        for one, linear in zip(self.node_encodings, self.encoding_maps, strict=True):
            h = h + linear(encode_nodes(structure, one, self.training).to(dtype))
        if self.global_map is not None:
            h = h + self.global_map(self._globals(data, structure.num_graphs))[structure.graph]
        features = None
        if self.edge_features is not None:
            features = self.edge_features(data.edge_attr, len(structure.senders), dtype)
        return Level(structure, h, features)

    def _dtype(self) -> torch.dtype:
        """That of the weights; replicas of DataParallel have no ``parameters()``."""
        return next(iter(self.heads.values())).layers[0].weight.dtype  # type: ignore[union-attr,index]

    def answer(self, levels: list[Level], data: Any, mask: Mask = None) -> GraphTransformerOutput:
        """Predictions from the levels, finest first, and the loss where the data hold labels: of
        those that count.
        """
        predictions = self._predict(levels, data)
        losses = self._losses(predictions, data, mask)
        out = GraphTransformerOutput(
            predictions["y"] if self.single else predictions, losses=losses
        )
        if losses:
            out.loss = torch.stack(
                [self.targets[name].weight * value for name, value in losses.items()]
            ).sum()
        return out

    def _predict(self, levels: list[Level], data: Any) -> dict[str, Tensor]:
        finest, out = levels[0], {}
        x = None if self.node_norm is None else self.node_norm(finest.h)
        for name, target in self.targets.items():
            if target.place == "graph":
                assert self.readout is not None
                read = self.readout(
                    [(level.h, level.structure.graph) for level in levels],
                    finest.structure.num_graphs,
                )
                if self.global_map is not None:
                    read = torch.cat((read, self._globals(data, finest.structure.num_graphs)), -1)
            elif target.place == "node":
                assert x is not None
                read = x
            else:
                assert x is not None
                read = self._edge_rows(x, finest, data)
            out[name] = self.heads[name](read)
        return out

    def _edge_rows(self, x: Tensor, finest: Level, data: Any) -> Tensor:
        """Sender, receiver and features of the pairs to be judged; a pair that is no given edge has
        features 0.
        """
        senders, receivers = finest.structure.senders, finest.structure.receivers
        features, asked = (
            finest.edge_features,
            data.get("edge_label_index") if hasattr(data, "get") else None,
        )
        if asked is not None:
            check_ends(asked[0], asked[1], len(x), len(x), "edge_label_index")
            senders, receivers = asked[0], asked[1]
            features = (
                None if features is None else features.new_zeros(len(senders), features.shape[1])
            )
        parts = [x[senders], x[receivers]]
        return torch.cat(parts if features is None else [*parts, features], -1)

    def _losses(self, predictions: dict[str, Tensor], data: Any, mask: Mask) -> dict[str, Tensor]:
        out = {}
        labels = [self.label(name, data) for name in self.targets]
        if mask is not None and all(data.get(label) is None for label in labels):
            raise ValueError(
                "mask chooses the labels that count in the loss, and the data hold none "
                f"(data.{', data.'.join(labels)}): leave it out"
            )
        for name, target in self.targets.items():
            label = self.label(name, data)
            if data.get(label) is not None and not self._without_loss(data, mask):
                keep = self.counted(name, data, mask, training=self.training)
                out[name] = target_loss(predictions[name], data[label], target, label, keep)
        return out

    def _without_loss(self, data: Any, mask: Mask) -> bool:
        """In evaluation mode a prediction is the thing that is asked for, and a loss that is not
        known is left out, with a word.
        """
        why = "" if self.training else undecided(data, training=False, mask=mask)
        if why and "no loss" not in self.told:
            self.told.add("no loss")
            warnings.warn(f"there is no loss: {why}", stacklevel=2)
        return bool(why)

    def label(self, name: str, data: Any) -> str:
        """The attribute that holds a target's labels: its name, or PyG's ``edge_label`` for pairs
        that were asked for.
        """
        asked = (
            self.single
            and self.targets[name].place == "edge"
            and data.get("edge_label_index") is not None
        )
        return "edge_label" if asked else name

    @strict_flags
    def counted(self, name: str, data: Any, mask: Mask = None, *, training: bool) -> Tensor | None:
        """Bool ``[rows]``, which labels of a target count
        (:mod:`graphformer.models.graphs.label_masks`); None for all.
        """
        masked = masked_place(one.place for one in self.targets.values())
        if (place := self.targets[name].place) == masked:
            return counted(data, place, num_rows(data, place), training=training, mask=mask)
        given = held_masks(data) if mask is None else ["mask"] * (mask != "all")
        if given and f"mask of {name}" not in self.told:
            self.told.add(f"mask of {name}")
            warnings.warn(
                f"{', '.join(given)} chooses among {masked}s: labels of the target {name!r}, of "
                f"{place}s, all count",
                stacklevel=2,
            )
        return None

    def _globals(self, data: Any, num_graphs: int) -> Tensor:
        u = data.get("u")
        if u is None:
            raise ValueError(
                f"data.u is missing: the model was made with global_dim={self.global_dim}"
            )
        if u.numel() != num_graphs * self.global_dim:
            raise ValueError(
                f"data.u must be [{num_graphs}, {self.global_dim}] (graphs, global_dim), got shape "
                f"{list(u.shape)}"
            )
        refuse_nan("data.u", u)
        return u.reshape(num_graphs, self.global_dim).to(self._dtype())
