"""Pictures of a Sparse-GIN adapter's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphformer.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_lambda(history: Mapping[str, Sequence[Any]], *, title: str | None = None) -> Figure:
    """Lambda of each layer over training, and over the layers at its start and end (figures 10 and
    11 of arXiv 2501.02393).

    Args:
        history: what :class:`graphformer.adapters.LambdaRecorder` kept.

    Raises:
        ValueError: nothing was kept. MissingExtra: matplotlib is not installed.
    """
    if not history.get("steps"):
        raise ValueError(
            "history holds no steps: train with callbacks=[LambdaRecorder()] and a Sparse-GIN "
            "adapter first"
        )
    require("matplotlib", extra="viz", why="a picture")
    from matplotlib.figure import Figure

    steps, values = history["steps"], history["values"]
    count = len(values[0])
    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, over_layers = figure.subplots(1, 2)
    for layer in range(count):
        shade = 0.8 - 0.7 * layer / max(count - 1, 1)  # deeper layers are darker
        label = f"layer {layer}" if layer in (0, count - 1) or count <= 8 else None
        over_time.plot(
            steps,
            [row[layer] for row in values],
            color=(shade * 0.5, shade * 0.8, 0.4 + shade * 0.5),
            label=label,
        )
    over_time.set(xlabel="training step", ylabel="lambda", title=title or "Lambda of each layer")
    over_time.legend(frameon=False, fontsize=8)
    for step, colour, marker in ((0, "#999999", "o"), (-1, "#1f5fa8", "s")):
        over_layers.plot(
            range(count), values[step], color=colour, marker=marker, label=f"step {steps[step]}"
        )
    over_layers.set(xlabel="layer", ylabel="lambda", title="At the start and at the end")
    over_layers.set_xticks(range(count) if count <= 32 else range(0, count, 4))
    over_layers.legend(frameon=False, fontsize=8)
    for ax in (over_time, over_layers):
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
