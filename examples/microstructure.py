"""From raw label images of polycrystals to their conductivity, in a few minutes on one core and
without any download.

Grains of two phases, of conductivity 1 and 100. Images, tables of the grains and measured
conductivities are written as files (they could come from a microscope), read as grain graphs, and
learned. Then the model predicts polycrystals that it never saw, also some with more grains than any
that it was trained on, beside the usual rule of thumb, the geometric mean weighted with volumes. A
picture shows the refined graph of the last layer over a label image.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import graphformer as gf
from graphformer.datasets import Microstructures
from graphformer.datasets.microstructures.voronoi import Recipe, make_polycrystal
from graphformer.training import GraphModel, GraphTrainer, load_graph_model
from graphformer.training.graphs.metrics import regression_metrics

CONTRAST = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000, help="images to learn from")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("microstructure"),
        help="an own folder of this example; it is written anew",
    )
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    marker = options.output / "written-by-the-example"
    if options.output.exists():
        if any(options.output.iterdir()) and not marker.exists():
            raise SystemExit(
                f"error: --output {options.output} holds other files; name a folder that the "
                "example may write anew"
            )
        shutil.rmtree(options.output)
    options.output.mkdir(parents=True)
    marker.touch()

    print(
        f"Polycrystals of two phases, contrast {CONTRAST:g}: {options.graphs} label images to "
        "learn their conductivity from."
    )
    start = time.perf_counter()
    held = max(options.graphs // 10, 2)
    parts = {
        "training": write_images(options.output / "training", options.graphs, (10, 30), 48, seed=0),
        "validation": write_images(options.output / "validation", held, (10, 30), 48, seed=1),
        "new, 10 to 30 grains": write_images(options.output / "test", held, (10, 30), 48, seed=2),
        "new, 40 to 60 grains": write_images(options.output / "larger", held, (40, 60), 80, seed=3),
    }
    data = {name: read_images(folder) for name, folder in parts.items()}
    print(
        f"{sum(len(part) for part in data.values())} images written and read in "
        f"{time.perf_counter() - start:.0f} s"
    )

    start = time.perf_counter()
    transformers.set_seed(0)
    net = gf.GraphTransformer(
        node_dim=len(data["training"].node_names),
        edge_dim=len(data["training"].edge_names),
        hidden_size=32,
        num_layers=6,
        num_heads=4,
        operator="gin",
        readout=("mean",),  # the answer does not grow with the number of grains
        dropout=0.1,
    )
    trainer = GraphTrainer(
        net,
        data["training"],
        data["validation"],
        options.output / "model",
        epochs=options.epochs,
        max_nodes=512,
        learning_rate=3e-3,
        target_scaling="log",
        eval_epochs=2,
    )
    trainer.fit()
    print(f"trained in {time.perf_counter() - start:.0f} s")

    model = load_graph_model(options.output / "model")  # as another program would
    print("\neffective conductivity      R2 of the model   R2 of the geometric mean")
    for name in ("new, 10 to 30 grains", "new, 40 to 60 grains"):
        y = torch.cat([graph.y for graph in data[name]])
        scores = [
            regression_metrics(values, y)["r2"]
            for values in (model.predict(data[name]), geometric_mean(data[name]))
        ]
        print(f"  {name:22} {scores[0]:15.3f} {scores[1]:20.3f}")
    picture = options.output / "refined.png"
    draw(model, data["new, 40 to 60 grains"], 0, picture)
    print(f"\nthe refined graph of the last layer over an image: {picture}")
    command = (
        f"graphformer predict {options.output}/model {options.output}/larger/p0000.npy --tables "
        f"{options.output}/larger"
    )
    print(f"next: .venv/bin/{command}")


def write_images(
    folder: Path, count: int, grains: tuple[int, int], resolution: int, seed: int
) -> Path:
    """``p<i>.npy`` (the labels), ``p<i>.csv`` (the grains' conductivity) and ``targets.csv`` (what
    was solved), as raw files.
    """
    folder.mkdir()
    recipe = Recipe(
        grains,
        2,
        resolution,
        seed,
        "conductivity",
        "two-phase",
        1.0,
        CONTRAST,
        0.5,
        1.0,
        "mean",
        False,
    )
    with open(folder / "targets.csv", "w", newline="") as targets:
        rows = csv.writer(targets)
        rows.writerow(["file", "conductivity"])
        for i in range(count):
            made = make_polycrystal(recipe, i)
            np.save(folder / f"p{i:04}.npy", made.labels.astype(np.uint16))
            with open(folder / f"p{i:04}.csv", "w", newline="") as table:
                csv.writer(table).writerows(
                    [["label", "log_conductivity"], *enumerate(made.properties[:, 0].tolist())]
                )
            rows.writerow([f"p{i:04}.npy", np.trace(made.effective) / 2])
    return folder


def read_images(folder: Path) -> Microstructures:
    return Microstructures(
        folder, tables=folder, targets=folder / "targets.csv", periodic=True, relative=True
    )


def geometric_mean(data: Microstructures) -> torch.Tensor:
    """``exp(sum v log k / sum v)`` of the grains, ``[graphs, 1]``."""
    size, log_k = data.node_names.index("size"), data.node_names.index("log_conductivity")
    return torch.stack(
        [torch.exp((g.x[:, size] * g.x[:, log_k]).sum() / g.x[:, size].sum()) for g in data]
    )[:, None]


def draw(model: GraphModel, data: Microstructures, index: int, path: Path) -> None:
    """The merged heads' graph of the last layer over the label image: the half of a line at a grain
    is what that grain receives from the other one, relative to equal shares of all its neighbours.
    The cell is periodic: lines leave it on one side and enter on the other.
    """
    graph, labels = data[index], np.load(data.files[index])
    out = model.output(graph)
    lane = out.refined[-1].lane(0)
    senders, receivers, weight = (
        value.numpy() for value in (lane.senders, lane.receivers, lane.weight)
    )
    weight = weight * np.bincount(receivers, minlength=graph.num_nodes)[receivers]
    order = np.argsort(weight)  # the strongest on top
    senders, receivers, strength = (
        senders[order],
        receivers[order],
        np.clip(weight[order] / 3, 0, 1),
    )
    pos, side = graph.pos.numpy()[:, ::-1], len(labels)
    between = pos[senders] - pos[receivers]
    between -= side * np.rint(between / side)  # to the nearest of the sender's periodic images
    lines = np.stack((pos[receivers], pos[receivers] + between / 2), 1)

    figure = Figure(figsize=(6.4, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    fine = labels.repeat(8, 0).repeat(8, 1)
    k = graph.x[:, data.node_names.index("log_conductivity")].numpy()
    phase = (k > k.mean())[np.searchsorted(graph.grain.numpy(), fine)]
    walls = (fine != np.roll(fine, -1, 0)) | (fine != np.roll(fine, -1, 1))
    colours = ListedColormap(["#e8eef4", "#f2c98a", "#9a9a9a"])
    axes.imshow(
        np.where(walls, 2, phase),
        cmap=colours,
        vmin=0,
        vmax=2,
        interpolation="nearest",
        extent=(0, side, side, 0),
    )
    blue = np.column_stack([np.tile([0.05, 0.2, 0.5], (len(strength), 1)), 0.1 + 0.9 * strength])
    axes.add_collection(LineCollection(lines, linewidths=0.3 + 4.5 * strength, colors=blue))
    axes.scatter(pos[:, 0], pos[:, 1], s=14, color="#222222", zorder=3)
    axes.set(xlim=(0, side), ylim=(side, 0))
    axes.set_axis_off()
    axes.set_title(
        f"{graph.num_nodes} grains, orange conducts {CONTRAST:g} times better\n"
        f"conductivity {float(graph.y):.2f}, predicted {float(out.prediction):.2f}\n"
        "lines: the refined graph, at each grain what it listens to; full width: 3 x an equal "
        "share",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
