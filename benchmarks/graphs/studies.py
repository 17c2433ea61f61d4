"""The data sets: which parts, which networks, how long, and what is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

import graphformer as gf
from benchmarks.graphs.conduction import Conduction
from benchmarks.graphs.peers import CNN
from benchmarks.graphs.study import Metrics, Parts, Study, per_target
from benchmarks.graphs.variants import own_and_norm, variants
from graphformer.datasets import (
    CopolymerGraphs,
    MechanicalMNIST,
    PolycrystalDataset,
    PolymerGraphs,
    ProteinSecondaryStructure,
)
from graphformer.datasets.microstructures.grains import feature_names
from graphformer.nn import AddStructure
from graphformer.training import GraphModel
from graphformer.training.graphs.metrics import regression_metrics

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphformer"
QUICK = 48
"""Graphs of each part in a quick run."""


def first(data: Any, quick: bool) -> Any:
    return data[: min(QUICK, len(data))] if quick else data


def cut(parts: tuple[Any, Any, Any], quick: bool, test: str = "test") -> Parts:
    train, valid, tested = (first(part, quick) for part in parts)
    return Parts(train, valid, {test: tested})


# ---------------------------------------------------------------------- polymers


def polymer_dft(name: str, what: str, published: str, epochs: int) -> Study:
    """Five folds; a tenth of what is left for training validates."""
    encodings = ("degree", "random_walk:12")

    def parts(repeat: int, quick: bool) -> Parts:
        stored = AddStructure(encodings)  # once, and not in every step
        rest, test = PolymerGraphs(CACHE / "polymer-dft", name, pre_transform=stored).folds(
            5, seed=0
        )[repeat]
        train, valid = rest.split((0.9, 0.1), seed=repeat)
        return cut((train, valid, test), quick)

    one = PolymerGraphs
    network: dict[str, Any] = {
        **{
            "node_dim": len(one.node_names),
            "edge_dim": len(one.edge_names),
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
        },
        **{"encodings": encodings, "dropout": 0.1},
    }
    sums = {"normalize": "sigmoid"}  # which know how many neighbours there are, as GINE's do
    return Study(
        name=f"polymer-dft-{name.lower()}",
        title=f"polymer-dft {name}: {what}, 5 folds (eV)",
        parts=parts,
        network=network,
        ours=sums,
        training={"epochs": epochs, "max_nodes": 1024, "learning_rate": 2e-3, "eval_epochs": 5},
        columns=(f"{name} rmse", f"{name} r2"),
        measure=both((name,)),
        more=own_and_norm(network | sums) | variants(network | sums),
        repeats=5,
        folds=5,
        published=published,
    )


def both(names: tuple[str, ...]) -> Callable[[GraphModel, Any], Metrics]:
    rmse, r2 = per_target(names, "rmse"), per_target(names, "r2")
    return lambda model, test: rmse(model, test) | r2(model, test)


def vipea(by_monomer: bool = False) -> Study:
    """The published random folds; or ``by_monomer`` the nine published folds that leave a monomer A
    out of training, and another for validation. Monomers B are those of training there too.
    """

    def parts(repeat: int, quick: bool) -> Parts:
        data = CopolymerGraphs(CACHE / "vipea")
        return cut(data.monomer_fold(repeat) if by_monomer else data.random_fold(repeat), quick)

    one = CopolymerGraphs
    network: dict[str, Any] = {
        **{
            "node_dim": len(one.node_names),
            "edge_dim": len(one.edge_names),
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
        },
        **{"out_dim": 2, "readout": ("mean", "max")},
    }
    levels = {"levels": ("group_0",)}  # atoms, monomers
    folds = "published folds by monomer" if by_monomer else "published random folds"
    return Study(
        name="vipea-monomers" if by_monomer else "vipea",
        title=f"vipea: electron affinity and ionization potential of copolymers, {folds} (eV)",
        parts=parts,
        network=network,
        ours=levels,
        training={"epochs": 12, "max_nodes": 2048, "learning_rate": 2e-3, "eval_epochs": 3},
        columns=("EA rmse", "IP rmse"),
        measure=per_target(("EA", "IP"), "rmse"),
        more={
            "sum-flat": partial(gf.GraphTransformer, operator="sum", **network),
            **own_and_norm(network | levels),
            **variants(network | levels),
        },
        repeats=9 if by_monomer else 2,
        folds=9 if by_monomer else 10,
        published="wD-MPNN 0.099 / 0.094, D-MPNN on monomers alone 0.200 / 0.199 (Aldeghi & Coley "
        "2022, nine folds)"
        if by_monomer
        else "wD-MPNN 0.035 / 0.027, D-MPNN on monomers alone 0.173 / 0.165 (Aldeghi & Coley "
        "2022, ten folds)",
    )


# ---------------------------------------------------------------------- proteins


def flip(name: str, layers: int, epochs: int) -> Study:
    window = 8
    network: dict[str, Any] = {
        **{
            "node_dim": [21],
            "edge_dim": [2 * window],
            "hidden_size": 64,
            "num_layers": layers,
            "num_heads": 4,
        },
        **{"target": "node", "out_dim": 3, "task": "classification", "encodings": ()},
    }

    def parts(repeat: int, quick: bool) -> Parts:
        return cut(
            ProteinSecondaryStructure(CACHE / "flip", window=window).standard_split(),
            quick,
            "NEW364",
        )

    return Study(
        name=name,
        title=f"FLIP secondary structure from one sequence: Q3 on NEW364, {layers} layers, "
        f"{epochs} epochs",
        parts=parts,
        network=network,
        training={"epochs": epochs, "max_nodes": 2048, "learning_rate": 2e-3, "eval_epochs": 1},
        columns=("accuracy",),
        more={
            "sum-clusters": partial(
                gf.GraphTransformer, operator="sum", levels=("cluster:3",), **network
            ),
            **own_and_norm(network),
            **variants(network),
        },
        repeats=2,
        published="65 to 72 % from single sequences without pre-training; about 85 % with "
        "alignments (NetSurfP-2.0)",
    )


# ---------------------------------------------------------------------- materials


def mechanical_mnist() -> Study:
    def parts(repeat: int, quick: bool) -> Parts:
        data = MechanicalMNIST(CACHE / "mechanical-mnist", steps=(12,))
        images = torch.from_numpy(data.maps()[0]).float() / 255
        with_image = [
            Data(**{**data[i].to_dict(), "image": images[i][None, None]})
            for i in range(QUICK * 3 if quick else len(data))
        ]
        if quick:
            return Parts(
                with_image[:QUICK], with_image[QUICK : 2 * QUICK], {"test": with_image[2 * QUICK :]}
            )
        train, valid, test = (
            [with_image[i] for i in part.indices()] for part in data.standard_split()
        )
        return Parts(train, valid, {"test": test})

    def measure(model: GraphModel, test: Any) -> Metrics:
        y = torch.cat([graph.y for graph in test])
        found = model.predict(test)
        return {
            "relative error %": 100 * float(((found - y).abs() / y).mean()),
            "r2": regression_metrics(found, y)["r2"],
        }

    network: dict[str, Any] = {
        **{
            "node_dim": 8,
            "edge_dim": 2,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
            "readout": ("mean", "max"),
        },
    }
    levels = {"levels": ("group_0", "group_1")}
    return Study(
        name="mechanical-mnist",
        title="Mechanical MNIST: final strain energy, 8,000 / 1,000 / 1,000 maps",
        parts=parts,
        network=network,
        ours=levels,
        training={"epochs": 12, "max_nodes": 4096, "learning_rate": 2e-3, "eval_epochs": 2},
        columns=("relative error %", "r2"),
        measure=measure,
        repeats=2,
        published="about 2 % and below 1 % (CNN) from 60,000 maps (Lejeune 2020, other split)",
        more={
            "cnn": partial(CNN, channels=1, side=28),
            **own_and_norm(network | levels),
            **variants(network | levels),
        },
    )


def polycrystals(
    name: str,
    title: str,
    levels: tuple[str, ...] = (),
    tell: Conduction | None = None,
    folder: str | None = None,
    **law: Any,
) -> Study:
    """Trained on 10 to 30 grains; tested on new polycrystals of the same kind, and on twice as many
    grains. ``tell`` adds columns to what all networks are told; ``folder``: of the cache.
    """

    def parts(repeat: int, quick: bool) -> Parts:
        made = {}
        for part, (count, grains, resolution) in enumerate(
            (SIZES["few"], SIZES["test"], SIZES["test"], SIZES["many"])
        ):
            seed = 10 * repeat + part
            data = PolycrystalDataset(
                CACHE / (folder or name),
                16 if quick else count,
                grains,
                resolution=resolution,
                seed=seed,
                log=False,
                **law,
            )
            made[part] = data if tell is None else [tell(graph) for graph in data]
        return Parts(made[0], made[1], {"10 to 30 grains": made[2], "40 to 60 grains": made[3]})

    def measure(model: GraphModel, test: Any) -> Metrics:
        return {"r2": model.evaluate(test)["r2"]}

    network: dict[str, Any] = {
        **{
            "node_dim": len(GRAINS) + (len(tell.node_names) if tell else 0),
            "edge_dim": 2 + (len(tell.edge_names) if tell else 0),
            "hidden_size": 64,
            "num_layers": 6,
            "num_heads": 4,
            "readout": ("mean",),
        },
    }
    coarse = {"levels": levels} if levels else {}
    return Study(
        name=name,
        title=title,
        parts=parts,
        network=network,
        ours=coarse,
        training={
            "epochs": 15,
            "max_nodes": 1024,
            "learning_rate": 2e-3,
            "target_scaling": "log",
            "eval_epochs": 3,
        },
        columns=("r2",),
        measure=measure,
        repeats=2,
        more=own_and_norm(network | coarse, apart=bool(levels)) | variants(network | coarse),
        baseline=geometric_mean,
    )


GRAINS = (*feature_names(2).node, "log_conductivity")
"""What a grain is told, before any ``tell``."""
SIZES = {"few": (4000, (10, 30), 64), "test": (400, (10, 30), 64), "many": (400, (40, 60), 96)}
"""Graphs, grains and voxels along an axis: voxels along a grain stay the same."""


def geometric_mean(data: Any) -> Metrics:
    """``exp(sum v log k / sum v)``: exact in 2-D where phases are interchangeable, otherwise the
    usual rule of thumb.
    """
    size, log_k = GRAINS.index("size"), GRAINS.index("log_conductivity")
    found = torch.stack(
        [torch.exp((g.x[:, size] * g.x[:, log_k]).sum() / g.x[:, size].sum()) for g in data]
    )[:, None]
    return {"r2": regression_metrics(found, torch.cat([g.y for g in data]))["r2"]}


STUDIES: dict[str, Callable[[], Study]] = {
    "vipea": vipea,
    "vipea-monomers": lambda: vipea(by_monomer=True),
    "polymer-dft-egc": lambda: polymer_dft(
        "Egc", "band gap of a chain", "TransPolymer 0.44 / 0.92, pre-trained on millions", 40
    ),
    "polymer-dft-egb": lambda: polymer_dft(
        "Egb", "band gap in bulk", "TransPolymer 0.52 / 0.93, pre-trained on millions", 80
    ),
    "polymer-dft-ei": lambda: polymer_dft(
        "Ei", "ionization energy", "TransPolymer 0.39 / 0.84, pre-trained on millions", 80
    ),
    "flip": lambda: flip("flip", 2, 3),
    "flip-long": lambda: flip("flip-long", 3, 5),
    "mechanical-mnist": mechanical_mnist,
    "polycrystals": lambda: polycrystals(
        "polycrystals",
        "Polycrystals: effective conductivity, lognormal grains (sigma 1)",
        law="lognormal",
    ),
    "polycrystals-contrast": lambda: polycrystals(
        "polycrystals-contrast",
        "Polycrystals: effective conductivity, two phases of contrast 100",
        ("cluster:2",),  # found by the network: grains that listen to each other
        law="two-phase",
        contrast=100.0,
    ),
    "polycrystals-conduction": lambda: polycrystals(
        "polycrystals-conduction",
        "Polycrystals: the same contrast, grains and contacts told what they conduct",
        ("cluster:2",),
        Conduction(GRAINS.index("log_conductivity")),
        "polycrystals-contrast",
        law="two-phase",
        contrast=100.0,
    ),
}
