"""What a page holds, as a plain value for JSON; ``data.js`` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.inspect.report.molecules import drawing
from graphformer.inspect.report.packing import buffer, packed

if TYPE_CHECKING:
    from graphformer.inspect.value import ModelGraphs, Nodes

Key = tuple[int, int | None]


def content(
    graphs: ModelGraphs,
    title: str,
    max_edges: int | None,
    measures: dict[Key, dict[str, float | None]],
    ablation: dict[Key, float | None],
) -> dict[str, Any]:
    """All of the page. Without padding."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "receivers": layer.receivers,
            "senders": layer.senders,
            "heads": list(layer.heads),
            "measures": [measures.get((i, head)) for head in layer.heads or (None,)],
            "ablation": [ablation.get((i, head)) for head in layer.heads or (None,)],
        }
        for i, layer in enumerate(graphs.layers)
    ]
    sequences = []
    for number in range(graphs.batch):
        one = graphs.of_sequence(number)
        sequences.append(
            {
                "nodes": {side: _nodes(nodes, side) for side, nodes in one.nodes.items()},
                "layers": [packed(layer.graph, max_edges, layer.name) for layer in one.layers],
            }
        )
    return {
        "title": title,
        "model": graphs.model,
        "cut": graphs.cut,
        "maxEdges": max_edges,
        "hasMeasures": bool(measures),
        "hasAblation": bool(ablation),
        "layers": layers,
        "sequences": sequences,
    }


def _nodes(nodes: Nodes, side: str) -> dict[str, Any]:
    """One side of one sequence."""
    found: dict[str, Any] = {
        "kind": nodes.kind,
        "count": nodes.count,
        "labels": None if nodes.labels is None else list(nodes.labels[0]),
        "text": None if nodes.texts is None else nodes.texts[0],
        "grid": None if nodes.grid is None else list(nodes.grid),
    }
    if nodes.pos is not None and nodes.count:
        pos = nodes.pos[0].detach().double().cpu().numpy()
        if not np.isfinite(pos).all():
            raise ValueError(f"pos of {side} is not finite; the page cannot show it")
        found["pos"] = buffer(turned(pos, nodes.kind), "f4")
    if nodes.kind == "atom" and nodes.texts is not None:
        found |= drawing(nodes.texts[0], nodes.count)
    return found


def turned(pos: np.ndarray, kind: str) -> np.ndarray:
    """Coordinates ``[N, 3]`` in -1..1: x to the right, y upwards, z to the reader.

    In three dimensions the widest directions come first (principal axes), so that the first look is
    at the broad side. Grains stand in an image, rows downwards.
    """
    pos = pos - pos.mean(0)
    if pos.shape[1] >= 3:
        axes = np.linalg.svd(pos, full_matrices=False)[2]
        if len(axes) >= 3 and np.linalg.det(axes[:3, :3]) < 0 and pos.shape[1] == 3:
            axes[2] *= -1  # a turn, never a mirror image
        pos = pos @ axes[:3].T
    elif pos.shape[1] == 2 and kind == "grain":
        pos = np.stack((pos[:, 1], -pos[:, 0]), 1)
    pos = np.pad(pos, ((0, 0), (0, 3 - pos.shape[1])))
    return pos / max(float(np.abs(pos).max()), 1e-12)
