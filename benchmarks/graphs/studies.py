"""The data sets: which parts, which networks, how long, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import graphformer as gf
from benchmarks.graphs import load
from benchmarks.graphs.conduction import Conduction
from benchmarks.graphs.materials import GRAINS, crystals, mechanical_mnist, polycrystals
from benchmarks.graphs.study import Metrics, Parts, Study, per_target
from benchmarks.graphs.variants import own_and_norm, variants
from graphformer.datasets import (
    CopolymerGraphs,
    PolymerGraphs,
    ProteinSecondaryStructure,
)
from graphformer.nn import AddStructure
from graphformer.training import GraphModel

# ---------------------------------------------------------------------- polymers


def polymer_dft(name: str, what: str, published: str, epochs: int) -> Study:
    """Five folds; a tenth of what is left for training validates, another one with other seeds."""
    encodings, folds = ("degree", "random_walk:12"), 5

    def parts(repeat: int, quick: bool) -> Parts:
        stored = AddStructure(encodings)  # once, and not in every step
        rest, test = PolymerGraphs(load.CACHE / "polymer-dft", name, pre_transform=stored).folds(
            folds, seed=0
        )[repeat % folds]
        train, valid = rest.split((0.9, 0.1), seed=repeat)
        return load.cut((train, valid, test), quick)

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
        repeats=folds,
        folds=folds,
        published=published,
    )


def both(names: tuple[str, ...]) -> Callable[[GraphModel, Any], Metrics]:
    rmse, r2 = per_target(names, "rmse"), per_target(names, "r2")
    return lambda model, test: rmse(model, test) | r2(model, test)


def vipea(by_monomer: bool = False) -> Study:
    """The published random folds; or ``by_monomer`` the nine published folds that leave a monomer A
    out of training, and another for validation. Monomers B are those of training there too.
    """

    folds = 9 if by_monomer else 10

    def parts(repeat: int, quick: bool) -> Parts:
        data = CopolymerGraphs(load.CACHE / "vipea")
        fold = repeat % folds
        return load.cut(data.monomer_fold(fold) if by_monomer else data.random_fold(fold), quick)

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
    which = "published folds by monomer" if by_monomer else "published random folds"
    return Study(
        name="vipea-monomers" if by_monomer else "vipea",
        title=f"vipea: electron affinity and ionization potential of copolymers, {which} (eV)",
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
        repeats=folds if by_monomer else 2,
        folds=folds,
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
        return load.cut(
            ProteinSecondaryStructure(load.CACHE / "flip", window=window).standard_split(),
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
    "ionic-crystals": crystals,
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
