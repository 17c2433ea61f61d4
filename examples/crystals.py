"""From files of crystals and a table of their energies to a model, predictions for crystals that it
never saw, and a parity plot.

    python examples/crystals.py
    python examples/crystals.py --files mine/ --targets mine.csv --target-column gap

Each crystal is a graph of the atoms of its cell, with an edge from each neighbour in all periodic
images. A tenth of the crystals is kept for validation and a tenth for the test; the model stands
beside a ridge regression on composition, volume and shortest distance, whose strength is chosen on
the same validation set. In the end the test's crystals are described anew, by supercells of other
cells, turned and shifted: they are the same crystals, and get the same answers.

The defaults make 800 ionic crystals of seven types of structure, write them as pymatgen does, and
learn the electrostatic energy of their ions, which depends on all ions to infinity and is exact, by
Ewald's sum. Under three minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch_geometric.data import Data

import graphformer as gf
from graphformer.datasets import Crystal, CrystalStructures, IonicCrystals, crystal_graph
from graphformer.datasets.crystals.elements import SYMBOLS
from graphformer.training import GraphModel, GraphTrainer, load_graph_model
from graphformer.training.graphs.metrics import regression_metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=Path, help="a folder of CIF or pymatgen's JSON [made here]")
    parser.add_argument("--targets", type=Path, help="a CSV with a column 'file'")
    parser.add_argument("--target-column", default="energy")
    parser.add_argument("--crystals", type=int, default=800, help="how many are made")
    parser.add_argument("--cutoff", type=float, default=5.0, help="of neighbours, in Å")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=Path("crystals"), help="a new folder")
    options = parser.parse_args()
    if options.output.exists():
        raise SystemExit(
            f"error: --output {options.output} is there already; name a new folder, or remove it"
        )
    if (options.files is None) != (options.targets is None):
        raise SystemExit("error: --files and --targets go together: crystals, and what is learned")
    transformers.logging.set_verbosity_error()
    transformers.set_seed(0)
    torch.set_num_threads(1)

    options.output.mkdir(parents=True)
    start = time.perf_counter()
    files, targets = options.files, options.targets
    if files is None:
        files, targets = write(options.crystals, options.output)
    data = CrystalStructures(None, files, cutoff=options.cutoff, targets=targets, log=False)
    if options.target_column not in data.target_names:
        raise SystemExit(
            f"error: --target-column {options.target_column} is none of {targets}: "
            f"{', '.join(data.target_names)}"
        )
    column = data.target_names.index(options.target_column)
    kept = [i for i, graph in enumerate(data) if graph.y[0, column].isfinite()]
    train, validation, test = data.index_select(kept).split((0.8, 0.1, 0.1))
    edges = sum(graph.num_edges for graph in data) / sum(graph.num_nodes for graph in data)
    print(
        f"{len(data)} crystals read in {time.perf_counter() - start:.0f} s, {len(data.skipped)} "
        f"left out; {edges:.0f} neighbours an atom"
    )

    start = time.perf_counter()
    net = gf.GraphTransformer(
        node_dim=len(data.node_names),
        edge_dim=len(data.edge_names),
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        out_dim=len(data.target_names),
        normalize="sigmoid",  # heads take sums over neighbours: a denser crystal has more
        readout=("mean",),  # of the same crystal in a larger cell the same
        edge_hidden=32,
    )
    GraphTrainer(
        net,
        train,
        validation,
        options.output / "model",
        epochs=options.epochs,
        max_nodes=192,
        learning_rate=2e-3,
        eval_epochs=5,
    ).fit()
    print(f"trained in {time.perf_counter() - start:.0f} s")

    model = load_graph_model(options.output / "model")  # as another program would
    y = torch.cat([graph.y for graph in test])[:, column]
    predicted = model.predict(test)[:, column]
    print(f"\n{len(test)} crystals that were not seen     MAE    RMSE      R2")
    for name, values in (
        ("model", predicted),
        ("ridge regression", ridge(train, validation, test, column)),
    ):
        scores = regression_metrics(values.reshape(-1, 1), y.reshape(-1, 1))
        print(f"  {name:29} {scores['mae']:8.3f} {scores['rmse']:7.3f} {scores['r2']:7.3f}")
    picture = options.output / "parity.png"
    gf.inspect.plot_parity(y, predicted, picture, names=[options.target_column])

    off = again(model, test, predicted, column, options.cutoff)
    print(f"\ndescribed anew (supercells, other cells, turned, shifted): at most {off:.1e} away")
    print(f"parity plot: {picture}")
    example = next(iter(data.files.values()))
    print(f"next: graphformer predict {options.output}/model {example}")


def write(count: int, folder: Path) -> tuple[Path, Path]:
    """Ionic crystals as files, and the table of their energies."""
    made = IonicCrystals(None, count, log=False)
    files, table = folder / "files", folder / "energies.csv"
    files.mkdir()
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "energy"])
        for i, graph in enumerate(made):
            (files / f"{i:04}.json").write_text(json.dumps(made.crystal(i).as_dict()))
            rows.writerow([f"{i:04}.json", float(graph.y)])
    return files, table


def ridge(
    train: CrystalStructures, validation: CrystalStructures, test: CrystalStructures, column: int
) -> torch.Tensor:
    """Predictions of the linear model of the shares of elements, the volume of an atom, and the
    inverse of the shortest distance, alone and times these shares.
    """

    def row(graph: Data) -> torch.Tensor:
        shares = graph.x.mean(0)
        near = 1 / graph.edge_attr[:, 0].min().reshape(1)
        volume = graph.cell[0].det().abs().reshape(1) / graph.num_nodes
        return torch.cat((shares, near * shares, near, volume, torch.ones(1)))

    parts = (train, validation, test)
    x = [torch.stack([row(graph) for graph in part]).double() for part in parts]
    y = [torch.cat([graph.y for graph in part])[:, column].double() for part in parts]
    weights = [
        torch.linalg.solve(x[0].T @ x[0] + 10.0**k * torch.eye(x[0].shape[1]), x[0].T @ y[0])
        for k in range(-6, 4)
    ]
    return x[2] @ min(weights, key=lambda w: float((x[1] @ w - y[1]).square().mean()))


def again(
    model: GraphModel, test: CrystalStructures, predicted: torch.Tensor, column: int, cutoff: float
) -> float:
    """How far the answers are for the same crystals in other words."""
    random = np.random.default_rng(0)
    graphs = []
    for graph in test:
        cell, pos = graph.cell[0].double().numpy(), graph.pos.double().numpy()
        change = np.eye(3)[random.permutation(3)]
        change[0] += random.integers(-1, 2) * change[1] - change[2]
        change[0] *= 2  # two cells in one
        both = np.concatenate((pos, pos + change[0] / 2 @ cell)) + random.random(3)
        turn = np.linalg.qr(random.standard_normal((3, 3)))[0]
        elements = [SYMBOLS[z - 1] for z in graph.atomic_number]
        other = Crystal(
            change @ cell @ turn, both @ np.linalg.inv(change @ cell), tuple(elements) * 2
        )
        graphs.append(crystal_graph(other, cutoff=cutoff))
    return float((model.predict(graphs)[:, column] - predicted).abs().max())


if __name__ == "__main__":
    main()
