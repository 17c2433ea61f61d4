"""The command line for graphs: ``graphformer train-graphs`` and ``graphformer predict``; :mod:`graphformer.cli` calls them."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers

from graphformer.errors import require
from graphformer.training.run import claim_output_dir, is_main_process

typer = require("typer", extra="text", why="The command line")


def train_graphs(
    output: Annotated[Path, typer.Option(help="Folder for the model and the checkpoints.")],
    dataset: Annotated[str, typer.Option(metavar="polycrystal|FOLDER", help="The embedded generator, or a folder of label images.")],
    targets: Annotated[Path | None, typer.Option(help="Images: a CSV with a column 'file' and a column a target.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Images: a folder of <stem>.csv, properties of the grains by 'label'.")] = None,
    kind: Annotated[str, typer.Option(metavar="grains|phases", help="Images: what a node is.")] = "grains",
    periodic: Annotated[bool, typer.Option("--periodic", help="Images: they continue on their other side.")] = False,
    relative: Annotated[bool, typer.Option("--relative", help="Images: lengths in units of the mean grain.")] = False,
    graphs: Annotated[int, typer.Option(min=1, help="Polycrystals: how many.")] = 1000,
    grains: Annotated[str, typer.Option(metavar="N|LEAST,MOST", help="Polycrystals: grains of each.")] = "20,40",
    dim: Annotated[int, typer.Option(help="Polycrystals: 2 or 3.")] = 2,
    resolution: Annotated[int, typer.Option(min=1, help="Polycrystals: voxels along an axis.")] = 64,
    law: Annotated[str, typer.Option(metavar="lognormal|two-phase", help="Polycrystals: what grains are made of.")] = "two-phase",
    contrast: Annotated[float, typer.Option(help="Polycrystals: of the second phase.")] = 100.0,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the graphs for the next run [default: none].")] = None,
    operator: Annotated[str, typer.Option(help="gin, pna or sum; or one for each layer: gin,pna,gin.")] = "gin",
    candidates: Annotated[str, typer.Option(help="Pairs that are scored: edges, edges+k_hop:2, all, ...")] = "edges",
    hidden_size: Annotated[int, typer.Option(min=1, help="Width of a node.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="Heads; each is one graph.")] = 4,
    dropout: Annotated[float, typer.Option(help="Dropout of blocks and heads.")] = 0.0,
    target_scaling: Annotated[str, typer.Option(metavar="standard|log|none", help="log: for positive targets.")] = "standard",
    epochs: Annotated[int, typer.Option(min=1, help="Passes through the training set.")] = 50,
    max_nodes: Annotated[int, typer.Option(min=1, help="Nodes of a batch and process.")] = 1024,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without gain [default: never].")] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    held_out: Annotated[float, typer.Option(help="Part of the graphs for validation, and again as much for the test.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same model.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue the run in --output from its newest complete checkpoint.")] = False,
) -> None:
    """Train a model that predicts properties of whole graphs, from generated polycrystals or from label images.

    The metrics at the end are those of graphs that were neither trained on nor used to choose the weights.
    """
    if not 0 < held_out < 0.5:
        raise ValueError(f"--held-out must be above 0 and below 0.5, got {held_out}; 0.1 is customary.")
    claim_output_dir(output, resume)  # before any time is spent
    from graphformer import GraphTransformer
    from graphformer.datasets import GraphDataset, Microstructures, PolycrystalDataset
    from graphformer.training import GraphTrainer

    transformers.logging.set_verbosity_error()
    bar = is_main_process()
    made: PolycrystalDataset | Microstructures
    if dataset == "polycrystal":
        if targets or tables:
            raise ValueError("--targets and --tables are for a folder of images; the polycrystals' conductivity is solved here.")
        options: dict[str, Any] = {"dim": dim, "resolution": resolution, "seed": seed, "law": law, "contrast": contrast, "log": bar}
        made = PolycrystalDataset(cache, graphs, _range(grains), **options)
    else:
        if not Path(dataset).is_dir():
            raise ValueError(f"--dataset: there is no folder {dataset!r}; give a folder of label images, or polycrystal.")
        if targets is None:
            raise ValueError("--targets is needed with a folder of images: a CSV with a column 'file' and a column a target.")
        made = Microstructures(
            dataset, cache, kind=kind, tables=tables, targets=targets, missing=True, periodic=periodic, relative=relative, log=bar
        )
    data: GraphDataset = made
    held = max(1, round(held_out * len(data)))
    if len(data) < 2 * held + 1:
        raise ValueError(f"--dataset: {len(data)} graphs are too few; training, validation and test need at least one each.")
    train, validation, test = data.split((len(data) - 2 * held, held, held), seed)

    transformers.set_seed(seed)
    operators = operator.split(",")
    net = GraphTransformer(
        node_dim=len(made.node_names),
        edge_dim=len(made.edge_names),
        hidden_size=hidden_size,
        num_layers=layers,
        num_heads=heads,
        target="graph",
        out_dim=len(made.target_names),
        operator=operators if len(operators) > 1 else operator,
        candidates=candidates,
        dropout=dropout,
    )
    trainer = GraphTrainer(
        net,
        train,
        validation,
        output,
        epochs=epochs,
        max_nodes=max_nodes,
        patience=patience,
        learning_rate=learning_rate,
        target_scaling=target_scaling,
        seed=seed,
    )
    weights = sum(p.numel() for p in net.parameters())
    _say(f"{len(train)} graphs to learn from, {len(validation)} to validate, {len(test)} to test; {weights:,} parameters")
    result = trainer.fit(resume)
    found = result.model.evaluate(test, max_nodes)
    values = ", ".join(f"{name.upper()} {found[name]:.4g}" for name in ("mae", "rmse", "r2"))
    _say(f"test: {values}, over {len(test)} graphs; {result.epochs} epochs, {result.steps} steps")
    _say(f"saved in {output}")
    _say(f"next: graphformer predict {shlex.quote(str(output))} IMAGE.npy --tables FOLDER")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def predict(
    model_dir: Annotated[Path, typer.Argument(help="A folder that graphformer train-graphs wrote.")],
    files: Annotated[list[Path], typer.Argument(help="Label images or voxel volumes: PNG, TIFF or npy.")],
    tables: Annotated[Path | None, typer.Option(help="A folder of <stem>.csv, properties of the grains by 'label'.")] = None,
    output: Annotated[Path | None, typer.Option(help="A CSV file to write [default: print].")] = None,
    max_nodes: Annotated[int, typer.Option(min=1, help="Nodes of a batch.")] = 4096,
) -> None:
    """Predict the properties of new images with a trained model: a line an image, in the unit of the training targets."""
    from graphformer.training import graphs_of_files, load_graph_model

    if output is not None and output.exists():
        raise ValueError(f"--output: {str(output)!r} is there already, and nothing is written over; name another file.")
    model = load_graph_model(model_dir)
    places = {target.place for target in model.net.targets.values()}
    if places != {"graph"}:
        raise ValueError(f"MODEL_DIR: the model predicts for {', '.join(sorted(places))}s; load it in Python and call its predict.")
    data = graphs_of_files(model.featuriser, files, tables)
    found = model.predict(data, max_nodes)
    table = found if isinstance(found, dict) else {"y": found}
    names = model.featuriser["target_names"] if not isinstance(found, dict) else []
    columns = [n for name, v in table.items() for n in (names if len(names) == v.shape[1] else [f"{name}_{i}" for i in range(v.shape[1])])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *columns])
    for row, file in enumerate(files):
        writer.writerow([file.name, *(f"{value:.6g}" for v in table.values() for value in v[row].tolist())])
    if output is None:
        _say(text.getvalue().rstrip("\n"))
    else:
        output.write_text(text.getvalue(), encoding="utf-8")
        _say(f"{len(files)} predictions in {output}")


def _range(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--grains must be a number or two, as in 20,40, got {text!r}.")
    return int(parts[0]), int(parts[-1])


def _say(text: str) -> None:
    if is_main_process():
        typer.echo(text)
