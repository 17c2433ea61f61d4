"""What a notebook shows of ModelGraphs: a table of its layers."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from graphformer.inspect.value import LayerGraph, ModelGraphs

_WIDTH, _HEIGHT, _BAR = 240, 26, 9


def summary(graphs: ModelGraphs) -> str:
    """HTML: a row for each layer with the number of its edges, and a bar for each head, whose
    height is its edges relative to the most of any head.
    """
    most = max((count for layer in graphs.layers for count in per_head(layer)), default=0)
    rows = "".join(
        f"<tr><td>{number}</td><td>{escape(layer.name)}</td><td>{escape(layer.kind)}</td>"
        f"<td>{len(layer.heads) or 'merged'}</td><td>{layer.graph.num_edges:,}</td>"
        f"<td>{_bars(layer, most)}</td></tr>"
        for number, layer in enumerate(graphs.layers)
    )
    names = ("", "layer", "kind", "heads", "edges", "edges of each head")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<p>{escape(str(graphs))}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def per_head(layer: LayerGraph) -> list[int]:
    """The edges of each head, over all sequences; one number where heads are merged."""
    heads = max(len(layer.heads), 1)
    lane = layer.graph.sender_lane
    return torch.bincount(lane % heads, minlength=heads).tolist()


def _bars(layer: LayerGraph, most: int) -> str:
    counts = per_head(layer)
    step = min(_BAR, _WIDTH / len(counts))
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HEIGHT - tall:.1f}" width="{step * 0.8:.1f}" '
        f'height="{tall:.1f}"><title>head {head}: {count:,} edges</title></rect>'
        for i, (head, count) in enumerate(zip(layer.heads or ("all",), counts, strict=True))
        for tall in [_HEIGHT * count / max(most, 1)]
    )
    width = len(counts) * step
    return (
        f'<svg width="{width:.0f}" height="{_HEIGHT}" fill="#3f7fbf" role="img" '
        f'aria-label="edges of each head: {", ".join(map(str, counts))}">{bars}</svg>'
    )
