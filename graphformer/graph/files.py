"""Graphs in safetensors files: methods of AttentionGraph."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from graphformer.graph.attention_graph import AttentionGraph


def save(graph: AttentionGraph, path: str | os.PathLike[str]) -> None:
    """Write the graph as one safetensors file."""
    sizes = {
        "num_senders": graph.num_senders,
        "num_receivers": graph.num_receivers,
        "batch_shape": list(graph.batch_shape),
    }
    tensors = {
        "senders": graph.senders,
        "receivers": graph.receivers,
        "weight": graph.weight.detach(),
    }
    # Clones, because safetensors refuses tensors that share memory (in a graph of self-loops
    # the ends may be one tensor).
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, path, metadata={"attention_graph": json.dumps(sizes)})


def load(path: str | os.PathLike[str]) -> AttentionGraph:
    """Read a graph that :func:`save` wrote."""
    from graphformer.graph.attention_graph import AttentionGraph

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "attention_graph" not in metadata:
            raise ValueError(
                f"{os.fspath(path)} is a safetensors file, but not one that "
                "AttentionGraph.save wrote"
            )
        sizes = json.loads(metadata["attention_graph"])
        sizes["batch_shape"] = tuple(sizes["batch_shape"])
        return AttentionGraph.from_edges(
            file.get_tensor("senders"),
            file.get_tensor("receivers"),
            file.get_tensor("weight"),
            **sizes,
        )
