"""Microstructures and crystals."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch_geometric.data import Data

from benchmarks.graphs import load
from benchmarks.graphs.conduction import Conduction
from benchmarks.graphs.peers import CNN
from benchmarks.graphs.study import Metrics, Parts, Study
from benchmarks.graphs.variants import own_and_norm, variants
from graphformer.datasets import IonicCrystals, MechanicalMNIST, PolycrystalDataset
from graphformer.datasets.microstructures.grains import feature_names
from graphformer.training import GraphModel
from graphformer.training.graphs.metrics import regression_metrics

BODY = {"hidden_size": 64, "num_layers": 4, "num_heads": 4}


def mechanical_mnist() -> Study:
    def parts(repeat: int, quick: bool) -> Parts:
        data = MechanicalMNIST(load.CACHE / "mechanical-mnist", steps=(12,))
        images = torch.from_numpy(data.maps()[0]).float() / 255
        with_image = [
            Data(**{**data[i].to_dict(), "image": images[i][None, None]})
            for i in range(load.QUICK * 3 if quick else len(data))
        ]
        if quick:
            return Parts(
                with_image[: load.QUICK],
                with_image[load.QUICK : 2 * load.QUICK],
                {"test": with_image[2 * load.QUICK :]},
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
        "node_dim": 8,
        "edge_dim": 2,
        "readout": ("mean", "max"),
        **BODY,
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
                load.CACHE / (folder or name),
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


def crystals() -> Study:
    """Made crystals with a property that depends on all ions to infinity, of which an atom sees its
    twelve nearest (and all as near as the last of them).
    """

    def parts(repeat: int, quick: bool) -> Parts:
        made = [
            IonicCrystals(
                load.CACHE / "ionic-crystals",
                16 if quick else count,
                seed=10 * repeat + part,
                neighbors=12,
                log=False,
            )
            for part, count in enumerate((2000, 250, 500))
        ]
        return Parts(made[0], made[1], {"test": made[2]})

    network: dict[str, Any] = {
        "node_dim": len(IonicCrystals.node_names),
        "edge_dim": 1 + 32,  # the length and its Gaussians
        "readout": ("mean",),  # of a supercell the same as of the cell
        **BODY,
    }
    sums = {"normalize": "sigmoid"}
    return Study(
        name="ionic-crystals",
        title="Ionic crystals: electrostatic energy (eV per atom), 2,000 to train",
        parts=parts,
        network=network,
        ours=sums,
        training={"epochs": 20, "max_nodes": 512, "learning_rate": 2e-3, "eval_epochs": 4},
        columns=("energy mae", "energy rmse"),
        measure=lambda model, test: {
            f"energy {kind}": model.evaluate(test)[kind] for kind in ("mae", "rmse")
        },
        repeats=2,
        more=own_and_norm(network | sums) | variants(network | sums),
    )
