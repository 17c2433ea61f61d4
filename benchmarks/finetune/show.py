"""Tables and figures of the stored runs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.finetune.methods import METHODS, REFERENCE
from benchmarks.finetune.study import chosen, untried


def table(content: dict[str, Any]) -> str:
    """Test loss of each method, and its difference to LoRA's with the same seeds."""
    runs = content["runs"]
    rows = [["untrained", "0", "", "", f"{content['untrained']['test']:.4f}", "", "", ""]]
    base = {run["seed"]: run["loss"] for run in runs.get(REFERENCE, [])}
    for method in (name for name in METHODS if runs.get(name)):
        done = runs[method]
        losses = [run["loss"] for run in done]
        mean, half = report.interval(losses)
        difference, error = report.interval(
            [run["loss"] - base[run["seed"]] for run in done if run["seed"] in base]
            or [float("nan")]
        )
        rate = chosen(content, method)
        edge = (
            " (edge of the grid)"
            if rate in (content["settings"]["grid"][0], content["settings"]["grid"][-1])
            else ""
        )
        if untried(tuple(content["settings"]["grid"]), content["grid"][method]) is not None:
            edge = " (grid not finished)"
        rows.append(
            [
                METHODS[method],
                f"{done[0]['trainable']:,}",
                f"{rate:g}{edge}",
                str(len(done)),
                with_bounds(f"{mean:.4f}", half),
                f"{np.exp(mean):.2f}",
                f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "-",
                "" if method == REFERENCE else with_bounds(f"{difference:+.4f}", error),
            ]
        )
    header = [
        "",
        "trainable",
        "rate",
        "seeds",
        "test loss, nats a token (95 %)",
        "perplexity",
        "sd",
        "minus LoRA (paired, 95 %)",
    ]
    return report.table(header, rows)


def with_bounds(value: str, half: float) -> str:
    """A mean and its interval; one seed has none."""
    return value if half != half else f"{value} ± {half:.4f}"


def plot(contents: dict[str, dict[str, Any]], folder: Path) -> None:
    """Validation curves (mean and range over seeds), and lambda over training."""
    from matplotlib.figure import Figure

    colours = {
        "lora": "#777777",
        "bottlenecks": "#b08bd0",
        "relations": "#7a2f9d",
        "sparse-gin": "#1f5fa8",
        "sparse-gin-self": "#2a9d8f",
        "full": "#d1691b",
    }
    for name, content in contents.items():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for method in colours:
            runs = content["runs"].get(method)
            if not runs:
                continue
            steps = [step for step, _ in runs[0]["curve"]][1:]
            losses = np.array([[loss for _, loss in run["curve"]][1:] for run in runs])
            left.plot(
                steps,
                losses.mean(0),
                color=colours[method],
                marker="o",
                markersize=3,
                label=METHODS[method],
            )
            left.fill_between(
                steps, losses.min(0), losses.max(0), color=colours[method], alpha=0.15, linewidth=0
            )
        left.set(
            xlabel="step", ylabel="validation loss, nats a token (start of the text)", title=name
        )
        left.legend(frameon=False, fontsize=8)
        history = content["runs"]["sparse-gin"][0]["lambda"]
        layers = len(history["values"][0])
        for layer in range(layers):
            shade = 0.75 - 0.7 * layer / max(layers - 1, 1)
            right.plot(
                history["steps"],
                [values[layer] for values in history["values"]],
                color=str(shade),
                label=f"layer {layer}",
            )
        right.set(
            xlabel="step", ylabel="lambda", title="lambda of each layer (key to query, seed 0)"
        )
        right.legend(frameon=False, fontsize=8)
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(True, color="#dddddd", linewidth=0.6)
        figure.savefig(folder / f"finetune-{name}.png", dpi=130)
