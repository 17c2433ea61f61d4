"""The relations that the columns of a data set's edges tell of, by name."""

from __future__ import annotations

from collections.abc import Sequence

from graphformer.attention.relations import EdgeColumns, Neighbours, Relation

TYPES = {
    "bonds": ("bond_single", "bond_double", "bond_triple", "bond_aromatic"),
    "periodic": ("periodic",),
    "contacts": ("contact",),
    "sequence": ("before", "after"),
    "peptide_bonds": ("peptide",),
    "sides": ("vertical", "horizontal"),
}
"""Columns that are 1 for an edge of a type: of polymers, of proteins, of square grids."""


def edge_relations(edge_names: Sequence[str]) -> dict[str, Relation]:
    """The relations of graphs whose ``edge_attr`` has these columns (``dataset.edge_names``).

    >>> known = gf.datasets.edge_relations(dataset.edge_names)
    >>> gf.GraphTransformer(..., relations=[known["bonds"], known["periodic"]])

    ======================= ========================================================================
    polymers                ``bonds``: single, double, triple, aromatic; ``periodic``: to the next
                            unit
    protein structures      ``contacts``; ``sequence``: from the residue before, and the one after;
                            ``peptide_bonds``
    microstructures         ``boundaries`` of grains or regions; ``sides`` of patches: vertical and
                            horizontal neighbours
    ======================= ========================================================================
    """
    names = list(edge_names)
    found: dict[str, Relation] = {
        name: EdgeColumns([names.index(one) for one in columns])
        for name, columns in TYPES.items()
        if set(columns) <= set(names)
    }
    if "boundary" in names:
        found["boundaries"] = Neighbours()
    return found
