"""The experiments: which rows are trained on which data, and how large."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.paper.recipes import (
    CONTROLS,
    CUTS,
    LONGER,
    NO_NORM,
    OPERATORS,
    RECIPE,
    recipe_row,
    recipe_rows,
)
from benchmarks.paper.settings import Experiment, Row, Scale


def gin(**options: Any) -> dict[str, Any]:
    """The paper's GIN-attention: softmax, sharpening, gamma 0.5, no projection of values or
    outputs, and dropout 0.1 inside the heads' MLPs. ``options`` are fields of the config.
    """
    return {
        "operator": "gin",
        "mlp_ratio": 0.5,
        "sharpening": True,
        "operator_options": {"gin": {"mlp_dropout": 0.1}},
        **options,
    }


PNA = {"operator": "pna", "mlp_ratio": 0.5, "threshold": 0.1}
"""PNA of edges above 0.1: with all pairs as edges a step takes several times as long, and sum and
mean are the same number.
"""

PROTEIN_ROWS = {
    "sum": Row("standard transformer", {"operator": "sum"}),
    "sum-dropout": Row(
        "standard transformer, dropout 0.1", {"operator": "sum", "hidden_dropout": 0.1}
    ),
    "gin": Row("GIN, gamma 0.5", gin()),
    "gin-no-dropout": Row("GIN without dropout", gin(operator_options=None)),
    "gin-gamma-1": Row("GIN, gamma 1", gin(mlp_ratio=1)),
    "gin-gamma-2": Row("GIN, gamma 2", gin(mlp_ratio=2)),
    "gin-gamma-4": Row("GIN, gamma 4", gin(mlp_ratio=4)),
    "gin-no-sharpening": Row("GIN without sharpening", gin(sharpening=False)),
    "gin-output-map": Row("GIN with an output projection", gin(output_projection=True)),
    "gin-differential": Row("GIN, differential attention", gin(score="differential")),
    "gin-sigmoid": Row("GIN, sigmoid for softmax", gin(normalize="sigmoid")),
    "gin-60": Row("GIN with 60 % of the parameters", gin(), share=0.6),
    "pna": Row("PNA, edges above 0.1", PNA),
    "pna-no-sharpening": Row("PNA without sharpening", {**PNA, "sharpening": False}),
    "sum-longer": LONGER,
    **{f"{operator}+{RECIPE}": recipe_row(RECIPE, operator) for operator in OPERATORS},
}

PROTEINS = Scale(
    data={"residues": 256, "train": 0, "validation": 0, "test": 0},
    hidden_size=128,
    intermediate_size=512,
    layers=4,
    heads=4,
    rounds=9,
    steps=None,
    batch=32,
    warmup=250,
    schedule="constant",
    grid=(3e-4, 1e-3, 3e-3),
    longer=1.35,
    weight_decay=0.01,
    betas=(0.9, 0.999),
)
"""The paper's training (9 epochs, constant rate after 250 steps, 32 sequences a step) with one
million parameters in the place of 25 million, on FLIP's proteins below 256 residues.
"""

TEXT = Scale(
    data={"context": 64, "validation": 0},
    hidden_size=128,
    intermediate_size=424,
    layers=4,
    heads=4,
    rounds=8,
    steps=250,
    batch=12,
    warmup=100,
    schedule="cosine",
    grid=(5e-4, 1e-3, 2e-3),
    longer=1.35,
)
"""nanoGPT's setting for a CPU, 0.8 million parameters, as in ``benchmarks.language``."""

SMALL_TEXT = replace(
    TEXT,
    data={"context": 32, "validation": 16_000},
    hidden_size=48,
    intermediate_size=128,
    layers=2,
    rounds=4,
    steps=75,
    batch=16,
    warmup=30,
    grid=(2e-3, 5e-3, 1.2e-2),
    longer=1.75,
)
SMALL_PROTEINS = replace(
    PROTEINS,
    data={"residues": 96, "train": 160, "validation": 64, "test": 64},
    hidden_size=48,
    intermediate_size=128,
    layers=2,
    batch=8,
    warmup=30,
    grid=(1.5e-3, 4e-3, 1.2e-2),
    longer=1.75,
)
"""Seconds a run on one CPU core: whether something is there at all, before hours are spent."""

QUICK_TEXT = replace(
    SMALL_TEXT,
    data={"context": 16, "validation": 300},
    hidden_size=16,
    intermediate_size=48,
    heads=2,
    rounds=2,
    steps=2,
    batch=4,
    warmup=1,
    grid=(2e-3,),
)
QUICK_PROTEINS = replace(
    QUICK_TEXT,
    layers=1,
    data={"train": 12, "validation": 4, "test": 4},
    steps=None,
    schedule="constant",
)

NOISE_ROWS = {
    "sum": Row("standard transformer", {"operator": "sum"}),
    "gin": Row("GIN", gin(operator_options=None)),
    "gin-no-norm": Row("GIN without the MLPs' norm", gin(**NO_NORM)),
    "gin-residual": Row(
        "GIN, the sum beside the MLP", gin(operator_options={"gin": {"mlp_residual": True}})
    ),
    "gin-fan-in": Row("GIN, MLPs as nn.Linear", gin(operator_options=None), start="fan-in"),
    "gin-zero-branch": Row("GIN, MLPs start at 0", gin(operator_options=None), start="zero-branch"),
    "gin-own-share": Row("GIN, epsilon 1", gin(operator_options=None), start="own-share"),
}


def _of_text(name: str, title: str, source: str, rows: dict[str, Row], **more: Any) -> Experiment:
    scales = {"full": TEXT, "small": SMALL_TEXT, "quick": QUICK_TEXT}
    return Experiment(name, title, source, rows, scales, **more)


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            "proteins",
            "proteins with tags of their secondary structure (FLIP)",
            "proteins",
            PROTEIN_ROWS,
            {"full": PROTEINS, "small": SMALL_PROTEINS, "quick": QUICK_PROTEINS},
            rates_of_rows=True,
        ),
        _of_text(
            "screening", "recipes, screened on tinyshakespeare", "tinyshakespeare", recipe_rows()
        ),
        *(
            _of_text(
                f"recipes-{source}",
                f"recipes on {source}",
                source,
                {**recipe_rows(), **CONTROLS, **CUTS, "sum-longer": LONGER},
                rates_of_rows=True,
            )
            for source in ("tinyshakespeare", "gsm8k")
        ),
        _of_text(
            "noise",
            "draw of weights and order of data, tinyshakespeare",
            "tinyshakespeare",
            NOISE_ROWS,
            crossed=True,
        ),
    )
}
