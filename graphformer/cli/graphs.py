"""The command ``graphformer train-graphs``; :mod:`graphformer.cli.app` calls it."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Annotated, Any

from graphformer.cli.options import Config, given, refuse_idle
from graphformer.cli.telling import say, talks
from graphformer.errors import number, require

typer = require("typer", extra="text", why="The command line")

DATASET = (
    "The embedded generator; a folder of label images; a CSV of polymers; a folder of PDB and "
    "mmCIF files; or one of crystals, CIF or pymatgen's JSON."
)


def train_graphs(
    output: Annotated[Path, typer.Option(help="Folder for the model and the checkpoints.")],
    dataset: Annotated[str, typer.Option(metavar="polycrystal|FOLDER|CSV", help=DATASET)],
    targets: Annotated[
        Path | None,
        typer.Option(help="Images, crystals: a CSV with a column 'file' and a column a target."),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(help="Images: a folder of <stem>.csv, properties of the grains by 'label'."),
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="grains|phases", help="Images: what a node is.")
    ] = "grains",
    periodic: Annotated[
        bool, typer.Option("--periodic", help="Images: they continue on their other side.")
    ] = False,
    relative: Annotated[
        bool, typer.Option("--relative", help="Images: lengths in units of the mean grain.")
    ] = False,
    graphs: Annotated[int, typer.Option(min=1, help="Polycrystals: how many.")] = 1000,
    grains: Annotated[
        str, typer.Option(metavar="N|LEAST,MOST", help="Polycrystals: grains of each.")
    ] = "20,40",
    dim: Annotated[int, typer.Option(help="Polycrystals: 2 or 3.")] = 2,
    resolution: Annotated[
        int, typer.Option(min=1, help="Polycrystals: voxels along an axis.")
    ] = 64,
    law: Annotated[
        str,
        typer.Option(metavar="lognormal|two-phase", help="Polycrystals: what grains are made of."),
    ] = "two-phase",
    contrast: Annotated[float, typer.Option(help="Polycrystals: of the second phase.")] = 100.0,
    smiles_column: Annotated[
        str, typer.Option(help="Polymers: the column of pSMILES or copolymers.")
    ] = "smiles",
    target_columns: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Polymers: the columns that are learned.")
    ] = None,
    residue_target: Annotated[
        str,
        typer.Option(
            metavar="exposure|sasa|secondary", help="Proteins: what is learned of each residue."
        ),
    ] = "exposure",
    features: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Proteins: of these, what the model may read."),
    ] = None,
    cutoff: Annotated[
        float | None,
        typer.Option(
            help="Å between CA atoms in contact, or atoms that are neighbours in a crystal "
            "[default: 8 for proteins, 5 for crystals]."
        ),
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            min=1, help="Crystals: of these the so many nearest, and ties [default: all]."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the graphs for the next run [default: none]."),
    ] = None,
    operator: Annotated[
        str, typer.Option(help="gin, pna or sum; or one for each layer: gin,pna,gin.")
    ] = "gin",
    candidates: Annotated[
        str, typer.Option(help="Pairs that are scored: edges, edges+k_hop:2, all, ...")
    ] = "edges",
    normalize: Annotated[
        str, typer.Option(help="Weights that sum to 1: softmax; each edge for itself: sigmoid.")
    ] = "softmax",
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Coarse levels: cluster, or groups: group_0,group_1 [default: none].",
        ),
    ] = None,
    hidden_size: Annotated[int, typer.Option(min=1, help="Width of a node.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="Heads; each is one graph.")] = 4,
    dropout: Annotated[float, typer.Option(help="Dropout of blocks and heads.")] = 0.0,
    target_scaling: Annotated[
        str, typer.Option(metavar="standard|log|none", help="log: for positive targets.")
    ] = "standard",
    epochs: Annotated[
        int,
        typer.Option(min=1, help="Passes through the training set; more with --resume go on."),
    ] = 50,
    max_nodes: Annotated[int, typer.Option(min=1, help="Nodes of a batch and process.")] = 1024,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many epochs without gain [default: never]."),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Highest learning rate; it falls along a cosine.")
    ] = 1e-3,
    min_lr_ratio: Annotated[
        float, typer.Option(help="The part of it that is left at the end; 1 keeps it constant.")
    ] = 0.0,
    held_out: Annotated[
        float,
        typer.Option(help="Part of the graphs for validation, and again as much for the test."),
    ] = 0.1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same model.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option(help="Continue the run in --output from its newest complete checkpoint.")
    ] = False,
    config: Config = None,
) -> None:
    """Train a model that predicts properties of images of grains, of polymers, of crystals, or of
    each residue of proteins.

    The metrics at the end are those of graphs that were neither trained on nor used to choose the
    weights.
    """
    import torch
    import transformers

    from graphformer.cli import data_record, graph_data, record
    from graphformer.cli.held_out import write_held_out
    from graphformer.training.run import claim_output_dir, is_main_process

    chosen = dict(locals())
    if not 0 < held_out < 0.5:
        raise ValueError(
            f"--held-out must be above 0 and below 0.5, got {held_out}; 0.1 is customary."
        )
    source = graph_data.source_of(dataset)
    graph_data.refuse_foreign(source, given(), dataset)
    if law == "lognormal":
        refuse_idle({"contrast": "with --law lognormal, which has one phase"})
    if residue_target == "secondary":
        refuse_idle(
            {"target_scaling": "with --residue-target secondary, whose targets are classes"}
        )
    if patience is not None and patience >= epochs:
        warnings.warn(
            f"--patience {patience} has no effect with --epochs {epochs}: there are no more "
            "evaluations to wait for",
            stacklevel=2,
        )
    number("--learning-rate", learning_rate, above=0.0)
    number("--min-lr-ratio", min_lr_ratio, least=0.0, most=1.0)
    from graphformer import GraphTransformer
    from graphformer.training import GraphTrainer

    transformers.logging.set_verbosity_error()
    bar, groups = (
        talks(),
        tuple(part.strip() for part in (levels or "").split(",") if part.strip()),
    )
    operators = operator.split(",")
    network: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_layers": layers,
        "num_heads": heads,
        "operator": operators if len(operators) > 1 else operator,
        "candidates": candidates,
        "normalize": normalize,
        "levels": groups,
        "dropout": dropout,
    }
    GraphTransformer(1, **network)  # what does not fit is told before any time is spent
    claim_output_dir(output, resume)  # a folder that is taken is told before any time is spent
    opened = source.open(dataset, cache, {**chosen, "levels": groups}, bar)
    data = graph_data.labelled(opened.dataset)
    held = max(1, round(held_out * len(data)))
    if len(data) < 2 * held + 1:
        raise ValueError(
            f"--dataset: {len(data)} graphs are too few; training, validation and test need at "
            "least one each."
        )
    train, validation, test = data.split((len(data) - 2 * held, held, held), seed)

    transformers.set_seed(seed)
    net = GraphTransformer(
        node_dim=data[0].x.shape[1], edge_dim=data[0].edge_attr.shape[1], **network, **opened.target
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
        min_lr_ratio=min_lr_ratio,
        target_scaling=target_scaling,
        seed=seed,
        progress=talks(),
    )
    weights = sum(p.numel() for p in net.parameters())
    say(
        f"{len(train)} graphs to learn from, {len(validation)} to validate, {len(test)} to test; "
        f"{weights:,} parameters"
    )
    parts = {"train": train, "validation": validation, "test": test}
    with record.recorded(output, resume, data_record.of_graphs(source.kind, opened, parts)):
        result = trainer.fit(resume)
    found = result.model.evaluate(test, max_nodes)
    values = ", ".join(
        f"{name.upper()} {value:.4g}" for name, value in found.items() if name != "loss"
    )
    say(f"test: {values}, over {len(test)} graphs; {result.epochs} epochs, {result.steps} steps")
    if is_main_process():
        write_held_out(output, result.model, test, max_nodes)
    record.finish(
        output,
        {**found, "test_graphs": len(test), "epochs": result.epochs, "steps": result.steps},
        result.history,
        title=f"A model of {source.kind}",
        about=f"GraphTransformer with {weights:,} parameters, trained on {len(train)} graphs.",
        use=f"graphformer predict {shlex.quote(str(output))} {opened.next_files}",
    )
    say(f"saved in {output}")
    say(f"next: graphformer predict {shlex.quote(str(output))} {opened.next_files}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
