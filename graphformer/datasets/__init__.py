"""Data sets. Each module is imported when one of its names is first used, because the domain
libraries are optional.
"""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "TextDataset": "text",
    "collate_windows": "text",
    "embedded_text": "text",
    "read_text": "text",
    "split": "text",
    "build_tokenizer": "tokenizers",
    "encode": "tokenizers",
    "GSM8K": "gsm8k",
    "GraphDataset": "cache",
    "DownloadError": "download",
    "RawFile": "download",
    "PolycrystalDataset": "polycrystal",
    "voronoi_cells": "voronoi",
    "effective_conductivity": "homogenize",
    "effective_stiffness": "homogenize",
    "plane_strain": "homogenize",
    "Microstructures": "microstructure",
    "grain_graph": "grains",
    "region_graph": "grains",
    "regions": "grains",
    "MechanicalMNIST": "mechanical",
    "BREC": "brec",
    "polymer_graph": "smiles",
    "PolymerGraphs": "polymer",
    "CopolymerGraphs": "polymer",
    "ProteinSecondaryStructure": "protein",
    "ProteinStructures": "protein_structures",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
