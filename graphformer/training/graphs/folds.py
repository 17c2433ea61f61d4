"""k-fold cross-validation of graph models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphformer.errors import strict_flags
from graphformer.models.graphs.label_masks import held_masks
from graphformer.models.graphs.transformer import GraphTransformer
from graphformer.training.graphs.trainer import GraphTrainer
from graphformer.training.run import is_main_process
from graphformer.training.saving import write_text


@strict_flags
def cross_validate(
    make_net: Callable[[], GraphTransformer],
    dataset: Any,
    output_dir: str | Path,
    k: int = 5,
    *,
    validation: float = 0.1,
    seed: int = 0,
    groups: Sequence | None = None,
    resume: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train ``k`` models, each tested on a fold that it never saw, neither for training nor for
    stopping.

    Args:
        make_net: gives a new network; called after torch's seed is set to ``seed + fold``.
        dataset: a :class:`~graphformer.datasets.GraphDataset`.
        output_dir: fold ``i`` goes to ``fold-<i>``, and the result to ``folds.json``.
        k, groups: see :meth:`GraphDataset.folds`.
        validation: the part of each training set that is kept for validation.
        seed: of folds, validation parts and training.
        resume: continue where a killed run stopped.
        settings: of :class:`GraphTrainer`.

    Returns:
        ``{"folds": [metrics of each test fold], "mean": {...}, "std": {...}}``, the spread being
        that of a sample (k - 1).

    Raises:
        ValueError: as of GraphTrainer and GraphDataset.folds, or a ``validation`` that is not
            between 0 and 1.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be between 0 and 1, got {validation}; 0.1 is customary.")
    if masks := sorted({name for data in dataset for name in held_masks(data)}):
        raise ValueError(
            f"the graphs hold {', '.join(masks)}: folds divide the graphs, masks divide their "
            "labels; leave the masks out of the data, or train on them with GraphTrainer."
        )
    found = []
    for fold, (rest, test) in enumerate(dataset.folds(k, seed, groups)):
        held = max(1, round(validation * len(rest)))
        train, stop = rest.split((len(rest) - held, held), seed)
        torch.manual_seed(seed + fold)
        folder = Path(output_dir) / f"fold-{fold}"
        trainer = GraphTrainer(make_net(), train, stop, folder, seed=seed + fold, **settings)
        found.append(trainer.fit(resume and folder.exists()).model.evaluate(test))
    table = {name: np.array([one[name] for one in found]) for name in found[0]}
    result = {
        "folds": found,
        "mean": {name: float(values.mean()) for name, values in table.items()},
        "std": {name: float(values.std(ddof=1)) for name, values in table.items()},
    }
    if is_main_process():
        write_text(Path(output_dir) / "folds.json", json.dumps(result, indent=2) + "\n")
    return result
