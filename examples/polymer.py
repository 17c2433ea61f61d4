"""From a CSV of polymers and their band gaps to a model, predictions for polymers that you type,
and a picture of what atoms listen to.

    python examples/polymer.py python examples/polymer.py --csv mine.csv --smiles-column psmiles
    --target-column Tg --new "*CC(*)c1ccccc1" "*c1ccc(*)s1"

Each repeat unit (pSMILES: the two ``*`` are its ends) is a graph of atoms, closed to a chain. A
tenth of the polymers is kept for validation and a tenth for the test; the model stands beside a
ridge regression on what the unit is made of (shares and numbers of the elements, ring atoms,
charges, kinds of bonds and hybridisations), whose strength is chosen on the same validation set.
The defaults take the band gaps of 3,380 polymers from where ``GRAPHFORMER_DATA`` points to (or
beside the repository), and under three minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch_geometric.data import Data

import graphformer as gf
from graphformer.datasets import PolymerGraphs, polymer_graph
from graphformer.inspect.pictures import draw_polymer, refined_graph
from graphformer.training import GraphModel, GraphTrainer, load_graph_model
from graphformer.training.graphs.metrics import regression_metrics

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))
NEW = {
    "*CC(*)c1ccccc1": "polystyrene",
    "*c1ccc(*)s1": "polythiophene",
    "*CC(*)(C)C(=O)OC": "PMMA",
    "*c1ccc(C=C*)cc1": "PPV",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--csv", type=Path, default=DATA / "polymer-dft" / "Egc.csv", help="a table with a header"
    )
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target-column", default="value")
    parser.add_argument(
        "--new", nargs="+", default=list(NEW), metavar="PSMILES", help="polymers to predict"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("polymer"), help="a new folder")
    options = parser.parse_args()
    if options.output.exists():
        raise SystemExit(
            f"error: --output {options.output} is there already; name a new folder, or remove it"
        )
    if not options.csv.is_file():
        raise SystemExit(
            f"error: --csv {options.csv} is no file; name a CSV, or set GRAPHFORMER_DATA to the "
            "folder with polymer-dft"
        )
    # what is no repeat unit is refused before any training
    new = [polymer_graph(text.replace("|", "")) for text in options.new]
    transformers.logging.set_verbosity_error()
    transformers.set_seed(0)
    torch.set_num_threads(1)

    start = time.perf_counter()
    data = PolymerGraphs(
        None,
        file=options.csv,
        text=options.smiles_column,
        targets=options.target_column,
        pre_filter=has_value,
    )
    train, validation, test = data.split((0.8, 0.1, 0.1))
    print(
        f"{len(data)} polymers read in {time.perf_counter() - start:.0f} s, {len(data.skipped)} "
        "left out"
    )

    start = time.perf_counter()
    net = gf.GraphTransformer(
        node_dim=len(data.node_names),
        edge_dim=len(data.edge_names),
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        operator="gin",
        candidates="edges+k_hop:3",  # an atom may listen to all atoms up to three bonds away
        normalize="sigmoid",  # and knows how many they are, for heads take sums
        readout=("mean",),  # a band gap does not grow with the length that the unit is written in
        dropout=0.1,
    )
    GraphTrainer(
        net,
        train,
        validation,
        options.output / "model",
        epochs=options.epochs,
        max_nodes=512,
        learning_rate=2e-3,
        eval_epochs=4,
    ).fit()
    print(f"trained in {time.perf_counter() - start:.0f} s")

    model = load_graph_model(options.output / "model")  # as another program would
    y = torch.cat([graph.y for graph in test])
    print(f"\n{len(test)} polymers that were not seen     MAE    RMSE      R2")
    for name, values in (
        ("model", model.predict(test)),
        ("ridge regression", ridge(train, validation, test)),
    ):
        scores = regression_metrics(values, y)
        print(f"  {name:30} {scores['mae']:8.3f} {scores['rmse']:7.3f} {scores['r2']:7.3f}")

    predicted = model.predict(new)[:, 0].tolist()
    known = {graph.text: float(graph.y) for graph in data}
    with open(options.output / "new.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                [options.smiles_column, options.target_column],
                *zip(options.new, predicted, strict=True),
            ]
        )
    print(f"\ntyped in                            {options.target_column}")
    for text, value in zip(options.new, predicted, strict=True):
        seen = f"   (the table has {known[text]:.2f})" if text in known else ""
        print(f"  {text:30} {value:7.2f}   {NEW.get(text, '')}{seen}")
    draw(model, options.new, predicted, options.output / "refined.png")
    print(f"\nwhat atoms listen to in the last layer: {options.output}/refined.png")
    print(f"next: graphformer predict {options.output}/model {options.output}/new.csv")


def has_value(graph: Data) -> bool:
    return bool(graph.y.isfinite().all())


def ridge(train: PolymerGraphs, validation: PolymerGraphs, test: PolymerGraphs) -> torch.Tensor:
    """Predictions ``[test, 1]`` of the linear model of the means and sums of all columns of atoms
    and bonds.
    """
    parts = (train, validation, test)
    mean = [
        torch.stack([torch.cat((g.x.mean(0), g.edge_attr.mean(0))) for g in part]) for part in parts
    ]
    total = [
        torch.stack([torch.cat((g.x.sum(0), g.edge_attr.sum(0), torch.ones(1) * 10)) for g in part])
        / 10
        for part in parts
    ]
    x = [torch.cat(both, 1).double() for both in zip(mean, total, strict=True)]
    y = [torch.cat([graph.y for graph in part]).double() for part in parts]
    weights = [
        torch.linalg.solve(x[0].T @ x[0] + 10.0**k * torch.eye(x[0].shape[1]), x[0].T @ y[0])
        for k in range(-4, 4)
    ]
    return x[2] @ min(weights, key=lambda w: float((x[1] @ w - y[1]).square().mean()))


def draw(model: GraphModel, texts: list[str], predicted: list[float], path: Path) -> None:
    rows, columns = -(-len(texts) // 2), min(len(texts), 2)
    figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for text, value, axes in zip(texts, predicted, places, strict=False):
        draw_polymer(axes, text, refined_graph(model, polymer_graph(text)))
        axes.set_title(f"{NEW.get(text, text)}, predicted {value:.2f}", fontsize=11)
    for axes in places:
        axes.set_axis_off()
    told = (
        "Blue, the refined graph of the last layer: a line starts at an atom and points to what it "
        "listens to, into the open\n"
    )
    told += (
        "where that is in another unit of the chain. Full width: 4 x an equal share. Grey: bonds, "
        "dotted to the next unit."
    )
    figure.suptitle(told, fontsize=9)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
