"""From structure files to the solvent exposure of each residue, on proteins that the model never
saw.

    python examples/protein.py
    python examples/protein.py --structures folder/of/pdb/and/mmcif --draw 1abc.pdb

Exposure (the surface that water reaches over the largest that the amino acid can have) is computed
from all atoms of the files. The model is told none of that: it sees the amino acids, the angles of
the backbone and which CA atoms are within 10 Å, and has to know how side chains fill the space
between. Its hierarchy is residues, segments of secondary structure, chains. Twenty proteins are
few, so each is predicted by a model that was trained on others (folds of whole files), and stands
beside two simple predictors with the same folds: the mean of the amino acid, and a linear model of
the amino acid and the number of contacts.

The defaults take the files from where ``GRAPHFORMER_DATA`` points to (or beside the repository),
and under three minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import torch
import transformers
from torch_geometric.data import Data

import graphformer as gf
from graphformer.datasets import ProteinStructures
from graphformer.datasets.proteins.protein import AMINO_ACIDS
from graphformer.inspect import plot_protein
from graphformer.training import cross_validate, load_graph_model
from graphformer.training.graphs.metrics import regression_metrics

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--structures",
        type=Path,
        default=DATA / "protein-structures",
        help="a folder of PDB and mmCIF files",
    )
    parser.add_argument("--draw", default="pdb1ubi.pdb", help="the file that is drawn")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path("protein"), help="a new folder")
    options = parser.parse_args()
    if options.output.exists():
        raise SystemExit(
            f"error: --output {options.output} is there already; name a new folder, or remove it"
        )
    if not options.structures.is_dir():
        raise SystemExit(
            f"error: --structures {options.structures} is no folder; name one, or set "
            "GRAPHFORMER_DATA to that of the data sets"
        )
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)

    start = time.perf_counter()
    data = ProteinStructures(None, options.structures, cutoff=10.0, target="exposure")
    residues = sum(graph.num_nodes for graph in data)
    print(
        f"{len(data)} structures, {residues} residues, read in {time.perf_counter() - start:.0f} "
        f"s; {len(data.skipped)} left out"
    )

    def make_net() -> gf.GraphTransformer:
        return gf.GraphTransformer(
            node_dim=len(data.node_names),
            edge_dim=len(data.edge_names),
            hidden_size=32,
            num_layers=3,
            num_heads=4,
            operator="gin",
            levels=("group_0", "group_1"),  # segments of secondary structure, chains
            target="node",
            dropout=0.1,
        )

    start = time.perf_counter()
    largest = max(graph.num_nodes for graph in data)
    settings = {
        "epochs": options.epochs,
        "max_nodes": max(700, largest),
        "learning_rate": 4e-3,
        "eval_epochs": 5,
        "progress": False,
    }
    cross_validate(
        make_net, data, options.output / "models", options.folds, validation=0.2, **settings
    )
    print(f"{options.folds} models trained in {time.perf_counter() - start:.0f} s")

    found: dict[str, list[torch.Tensor]] = {
        "model": [],
        "amino acid and number of contacts": [],
        "mean of the amino acid": [],
    }
    tested: list[Data] = []
    for fold, (rest, test) in enumerate(data.folds(options.folds)):
        # as another program would
        model = load_graph_model(options.output / "models" / f"fold-{fold}")
        for values, one in zip(
            found.values(), (model.predict(test), *simple(rest, test)), strict=True
        ):
            values.append(one)
        for graph, values in zip(
            test, found["model"][-1].split([graph.num_nodes for graph in test]), strict=True
        ):
            graph.predicted, graph.fold = values[:, 0], fold
            tested.append(graph)
    y = torch.cat([graph.y for graph in tested])
    print(
        "\n"
        f"exposure, {int((~y.isnan()).sum())} residues of proteins that were not seen     MAE    "
        "RMSE      R2"
    )
    for name, values in found.items():
        scores = regression_metrics(torch.cat(values), y)
        print(f"  {name:56} {scores['mae']:7.3f} {scores['rmse']:7.3f} {scores['r2']:7.3f}")

    table = options.output / "exposure.csv"
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "chain", "residue", "amino_acid", "exposure", "predicted"])
        for graph in tested:
            chains, letters = graph.chains.split(","), graph.x[:, : len(AMINO_ACIDS)].argmax(1)
            for i in range(graph.num_nodes):
                values = [f"{float(graph.y[i]):.3f}", f"{float(graph.predicted[i]):.3f}"]
                rows.writerow(
                    [
                        graph.name,
                        chains[graph.group_1[i]],
                        int(graph.residue[i]),
                        AMINO_ACIDS[letters[i]],
                        *values,
                    ]
                )
    print(f"\na row for each residue: {table}")
    chosen = next(
        (graph for graph in tested if Path(graph.name).name == options.draw),
        min(tested, key=lambda graph: graph.num_nodes),
    )
    picture = options.output / "refined.png"
    plot_protein(
        load_graph_model(options.output / "models" / f"fold-{chosen.fold}"),
        chosen,
        picture,
        predicted=chosen.predicted,
        true=chosen.y,
        name="exposure",
        title=f"{chosen.name}, which the model never saw: the refined graph of its last layer, "
        "and what it predicts",
    )
    print(f"what residues of {chosen.name} listen to in the last layer: {picture}")
    print(f"next: graphformer predict {options.output}/models/fold-0 {options.structures}")


def simple(rest: ProteinStructures, test: ProteinStructures) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares from the amino acid, the number of contacts and its square; and from the amino
    acid alone, which is its mean.
    """

    def columns(part: ProteinStructures) -> torch.Tensor:
        amino = torch.cat([graph.x[:, : len(AMINO_ACIDS)] for graph in part]).double()
        contacts = (
            torch.cat(
                [torch.bincount(graph.edge_index[1], minlength=graph.num_nodes) for graph in part]
            ).double()[:, None]
            / 10
        )
        return torch.cat((contacts, contacts.square(), amino), 1)

    x, y = columns(rest), torch.cat([graph.y for graph in rest]).double()
    x, y, new = x[~y.isnan()], y[~y.isnan()], columns(test)
    fits = [
        torch.linalg.solve(
            x[:, first:].T @ x[:, first:] + 1e-3 * torch.eye(x.shape[1] - first),
            x[:, first:].T @ y[:, None],
        )
        for first in (0, 2)
    ]
    return new @ fits[0], new[:, 2:] @ fits[1]


if __name__ == "__main__":
    main()
