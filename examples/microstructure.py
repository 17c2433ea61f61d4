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

import graphformer as gf
from graphformer.datasets import Microstructures
from graphformer.datasets.microstructures.voronoi import Recipe, make_polycrystal
from graphformer.inspect import plot_grains
from graphformer.training import GraphTrainer, load_graph_model
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
    larger = data["new, 40 to 60 grains"]
    plot_grains(
        model,
        larger[0],
        np.load(larger.files[0]),
        picture,
        periodic=True,
        values=larger[0].x[:, larger.node_names.index("log_conductivity")],
        title=f"{larger[0].num_nodes} grains, the darker conduct {CONTRAST:g} times better\n"
        f"conductivity {float(larger[0].y):.2f}, predicted {float(model.predict(larger[:1])):.2f}"
        "\nlines: the refined graph, at each grain what it listens to; full width: 3 x an equal "
        "share",
    )
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


if __name__ == "__main__":
    main()
