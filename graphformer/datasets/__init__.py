"""Data sets. Each module is imported when one of its names is first used, because the domain
libraries are optional.
"""

from __future__ import annotations

from graphformer._lazy import lazy

_HOME = {
    "TextDataset": "text.windows",
    "collate_windows": "text.windows",
    "embedded_text": "text.reading",
    "read_text": "text.reading",
    "split": "text.reading",
    "build_tokenizer": "text.tokenizers",
    "encode": "text.tokenizers",
    "GSM8K": "text.gsm8k",
    "edge_relations": "relations",
    "GraphDataset": "store.cache",
    "DownloadError": "store.download",
    "RawFile": "store.download",
    "PolycrystalDataset": "microstructures.polycrystal",
    "voronoi_cells": "microstructures.voronoi",
    "effective_conductivity": "microstructures.homogenize",
    "effective_stiffness": "microstructures.homogenize",
    "plane_strain": "microstructures.homogenize",
    "Microstructures": "microstructures.microstructure",
    "grain_graph": "microstructures.grains",
    "region_graph": "microstructures.grains",
    "regions": "microstructures.grains",
    "MechanicalMNIST": "microstructures.mechanical",
    "BREC": "brec",
    "Crystal": "crystals.crystal",
    "CrystalStructures": "crystals.structures",
    "IonicCrystals": "crystals.ionic",
    "crystal_graph": "crystals.crystal",
    "electrostatic_energy": "crystals.ewald",
    "periodic_neighbors": "crystals.neighbors",
    "polymer_graph": "polymers.smiles",
    "PolymerGraphs": "polymers.polymer",
    "CopolymerGraphs": "polymers.polymer",
    "ProteinSecondaryStructure": "proteins.protein",
    "ProteinStructures": "proteins.structures",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy(__name__, _HOME)
