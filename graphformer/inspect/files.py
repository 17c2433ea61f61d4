"""The graphs of a model in one safetensors file."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from graphformer.graph import AttentionGraph
from graphformer.inspect.streamed import Streamed
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes

FORMAT = "graphformer_model_graphs"


def save(graphs: ModelGraphs, path: str | os.PathLike[str]) -> None:
    """See :meth:`ModelGraphs.save`."""
    tensors: dict[str, Tensor] = {}
    layers: list[dict[str, Any]] = []
    for number, layer in enumerate(graphs.layers):
        graph = layer.graph
        own = {"senders": graph.senders, "receivers": graph.receivers, "weight": graph.weight}
        if layer.value_norm is not None:
            own["value_norm"] = layer.value_norm
        if layer.streamed is not None:
            own |= {f"streamed.{name}": x for name, x in layer.streamed.items().items()}
        tensors |= {f"{number}.{name}": value for name, value in own.items()}
        layers.append(
            {
                **{name: getattr(layer, name) for name in ("name", "kind", "senders", "receivers")},
                "heads": layer.heads,
                "num_senders": graph.num_senders,
                "num_receivers": graph.num_receivers,
                "batch_shape": graph.batch_shape,
                "streamed": layer.streamed is not None,
            }
        )
    nodes: dict[str, Any] = {}
    for side, one in graphs.nodes.items():
        plain = {name: getattr(one, name) for name in ("kind", "labels", "grid", "texts")}
        nodes[side] = plain
        tensors[f"nodes.{side}.keep"] = one.keep
        for name in ("ids", "pos"):
            if getattr(one, name) is not None:
                tensors[f"nodes.{side}.{name}"] = getattr(one, name)
    head = {"layers": layers, "nodes": nodes, "model": graphs.model, "cut": graphs.cut}
    # Clones, because safetensors refuses tensors that share memory.
    owned = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    save_file(owned, path, metadata={FORMAT: json.dumps(head)})


def load(path: str | os.PathLike[str]) -> ModelGraphs:
    """See :meth:`ModelGraphs.load`."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if FORMAT not in metadata:
            raise ValueError(
                f"{os.fspath(path)} is a safetensors file, but not one that ModelGraphs.save wrote"
            )
        names = set(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    head = json.loads(metadata[FORMAT])
    layers = []
    for number, one in enumerate(head["layers"]):
        graph = AttentionGraph.from_edges(
            tensors[f"{number}.senders"],
            tensors[f"{number}.receivers"],
            tensors[f"{number}.weight"],
            num_senders=one["num_senders"],
            num_receivers=one["num_receivers"],
            batch_shape=tuple(one["batch_shape"]),
        )
        prefix = f"{number}.streamed."
        streamed = {
            name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)
        }
        layers.append(
            LayerGraph(
                one["name"],
                one["kind"],
                graph,
                one["receivers"],
                one["senders"],
                tuple(one["heads"]),
                tensors.get(f"{number}.value_norm"),
                Streamed(**streamed) if one["streamed"] else None,
            )
        )
    nodes = {
        side: Nodes(
            tensors[f"nodes.{side}.keep"],
            None if one["labels"] is None else tuple(map(tuple, one["labels"])),
            tensors.get(f"nodes.{side}.ids"),
            one["kind"],
            None if one["grid"] is None else tuple(one["grid"]),
            tensors.get(f"nodes.{side}.pos"),
            None if one["texts"] is None else tuple(one["texts"]),
        )
        for side, one in head["nodes"].items()
    }
    return ModelGraphs(tuple(layers), nodes, head["model"], head["cut"])
