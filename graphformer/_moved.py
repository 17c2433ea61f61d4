"""Modules that stood elsewhere before. Their old names lead to the new modules: pickled models and
graphs name them, programs import them, and the caches of data sets are known by them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_DATASETS = {
    "microstructures": (
        "grains",
        "homogenize",
        "image_tables",
        "images",
        "mechanical",
        "microstructure",
        "polycrystal",
        "voronoi",
    ),
    "polymers": ("polymer", "smiles"),
    "proteins": (
        "atom_table",
        "protein",
        "residue_graph",
        "residue_names",
        "residue_sites",
        "residue_surface",
        "residues",
    ),
    "store": ("cache", "download", "fingerprint", "storage", "tables"),
    "text": ("gsm8k", "tokenizers"),
}

MOVED = {
    **{
        f"graphformer.datasets.{name}": f"graphformer.datasets.{folder}.{name}"
        for folder, names in _DATASETS.items()
        for name in names
    },
    "graphformer.adapters.anatomy": "graphformer.frozen.anatomy",
    "graphformer.adapters.memory": "graphformer.nn.memory",
    "graphformer.adapters.capture": "graphformer.frozen.capture",
    "graphformer.adapters.probe": "graphformer.frozen.probe",
    "graphformer.adapters.steps": "graphformer.frozen.steps",
    **{
        f"graphformer.attention.{name}": f"graphformer.attention.executors.{name}"
        for name in (
            *("blocks", "compiled", "dense", "edges", "exported", "flash", "merged"),
            *("plans", "stream", "twice"),
        )
    },
    "graphformer.attention.reweigh": "graphformer.attention.sparsifiers.reweigh",
    "graphformer.convert": "graphformer.graph.convert",
    "graphformer.keys": "graphformer.graph.keys",
    "graphformer.datasets.protein_structures": "graphformer.datasets.proteins.structures",
    "graphformer.datasets.smiles_features": "graphformer.datasets.polymers.features",
    "graphformer.datasets.smiles_parse": "graphformer.datasets.polymers.parse",
    "graphformer.datasets.structure_files": "graphformer.datasets.proteins.files",
    "graphformer.models.configuration": "graphformer.models.language.configuration",
    "graphformer.models.graph": "graphformer.models.graphs.transformer",
    "graphformer.models.graph_base": "graphformer.models.graphs.base",
    "graphformer.models.graph_data": "graphformer.models.graphs.data",
    "graphformer.models.graph_parts": "graphformer.models.graphs.parts",
    "graphformer.models.label_masks": "graphformer.models.graphs.label_masks",
    "graphformer.models.language_inputs": "graphformer.models.language.inputs",
    "graphformer.models.twin": "graphformer.models.language.twin",
    "graphformer.models.unread": "graphformer.models.graphs.unread",
    "graphformer.nn.scoring": "graphformer.attention.scores",
    "graphformer.training.evaluation": "graphformer.training.language.evaluation",
    "graphformer.training.graph_batches": "graphformer.training.graphs.batches",
    "graphformer.training.graph_callbacks": "graphformer.training.graphs.callbacks",
    "graphformer.training.graph_files": "graphformer.datasets.readers",
    "graphformer.training.graph_folds": "graphformer.training.graphs.folds",
    "graphformer.training.graph_metrics": "graphformer.training.graphs.metrics",
    "graphformer.training.graph_model": "graphformer.training.graphs.model",
    "graphformer.training.graph_scaling": "graphformer.training.graphs.scaling",
    "graphformer.training.graph_tables": "graphformer.training.graphs.tables",
    "graphformer.training.saved_language": "graphformer.training.language.saved",
    "graphformer.training.trainer": "graphformer.training.language.trainer",
}
JOINED = {
    **{
        f"graphformer.nn.{name}": "graphformer.nn.presets"
        for name in ("attention", "gin", "plain", "pna")
    },
    "graphformer.training.graphs.files": "graphformer.datasets.readers",
}
"""Modules that became parts of one, and those that moved twice."""

_FORMER = {new: old for old, new in MOVED.items()}


def former_name(module: str) -> str:
    """The name under which a module was first known; its own where it has not moved."""
    return _FORMER.get(module, module)


def lead_to_new_places() -> None:
    """Let an import of an old name give the very module that stands at the new place."""
    sys.meta_path.append(_Former())


class _Former(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in MOVED | JOINED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module((MOVED | JOINED)[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # it has run at its own place; importing by the old name has just given it another spec
        if module.__spec__ is not None and module.__spec__.name in MOVED | JOINED:
            module.__spec__ = module.__spec__.loader_state
