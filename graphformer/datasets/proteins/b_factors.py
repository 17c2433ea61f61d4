"""Numbers of residues in the column of B factors, where viewers of structures colour by them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphformer.datasets.proteins.atom_table import Atom, Model, read_models
from graphformer.datasets.proteins.files import (
    UnreadableStructure,
    content,
    kind_by_content,
    lines_of,
    structure_kind,
    text_of,
)
from graphformer.datasets.proteins.residue_names import is_amino_acid
from graphformer.datasets.proteins.residue_sites import Site, sites_of, sort_sites
from graphformer.datasets.store.tables import some
from graphformer.errors import require

_NAMED = 3  # how many residues without a number are told by name


def write_b_factors(
    source: str | Path, path: str | Path, values: Mapping[int, Sequence[float]]
) -> list[str]:
    """A copy of a structure file with a number of each residue as the B factor of all its atoms.

    All else stays as it is, chains and numbers of residues too. What has no number (water, ligands,
    residues without a CA atom, models that are not in ``values``) gets 0. A PDB file has two
    decimals, fewer where the number is long; an mmCIF file has four. Packed files are packed again.

    Args:
        source: a file that :class:`~graphformer.datasets.ProteinStructures` reads.
        path: of the copy; it must not be there.
        values: by the number of a model in the file, from 1: a finite number a node, in the order
            of the nodes of its graph.

    Returns:
        which residues have no number, a text each.

    Raises:
        ValueError: ``path`` is there; numbers that do not fit the residues, or that the column
            cannot hold; BinaryCIF with several blocks of atoms.
        MissingExtra: biotite is not installed.
    """
    source, path = Path(source), Path(path)
    if path.exists():
        raise ValueError(f"path: {str(path)!r} is there already; name another file.")
    try:
        data = content(source)
        kind = kind_by_content(data, structure_kind(source) or "pdb")
        charges = source.name.lower().removesuffix(".gz").endswith(".pdbqt")
        models = [one for one in read_models(data, kind, charges=charges) if isinstance(one, Model)]
        number, told = _numbers(source, models, values)
    except UnreadableStructure as error:
        raise ValueError(f"source: {source}: {error}.") from None
    made = _pdb(data, number, source) if kind == "pdb" else _cif(data, kind, models, number, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(made, mtime=0) if path.name.lower().endswith(".gz") else made)
    return told


def _numbers(
    source: Path, models: Sequence[Model], values: Mapping[int, Sequence[float]]
) -> tuple[list[dict[int, float]], list[str]]:
    """Of each model the number of each row, and what is told of the rows without one."""
    if strange := [one for one in values if not 1 <= one <= len(models)]:
        raise ValueError(
            f"values name model {strange[0]}, and {source} has {len(models)}; give one of these."
        )
    rows: list[dict[int, float]] = []
    told: list[str] = []
    for at, model in enumerate(models, start=1):
        if at not in values:
            rows.append({})
            continue
        sites = sites_of(model.atoms)
        found = sort_sites(sites)
        if len(found.nodes) != len(values[at]):
            raise ValueError(
                f"values: model {at} of {source} has {len(found.nodes)} residues, got "
                f"{len(values[at])} numbers; give one of each."
            )
        pairs = list(zip(found.nodes, map(float, values[at]), strict=True))
        own = {atom.row: number for site, number in pairs for atom in site.atoms.values()}
        # locations that were not chosen, and atoms without a place, are of the residue as well
        by_key = {_key(site): number for site, number in pairs}
        rows.append(
            {
                atom.row: own[atom.row] if atom.row in own else by_key[_key(atom)]
                for atom in model.atoms
                if atom.row in own or _key(atom) in by_key
            }
        )
        nodes = set(map(id, found.nodes))
        rest = [site for site in sites if id(site) not in nodes]
        protein = [site.label for site in rest if is_amino_acid(site.name)]
        others = [site.label for site in rest if not is_amino_acid(site.name)]
        parts = [
            f"{len(labels)} {what} ({some(labels, _NAMED)})"
            for what, labels in (("of protein", protein), ("other", others))
            if labels
        ]
        if parts:
            told.append(f"B factor 0 where there is no prediction: {', '.join(parts)}")
    if without := sum(at not in values for at in range(1, len(models) + 1)):
        told.append(f"B factor 0 in the models without a prediction: {without} of {len(models)}")
    return rows, told


def _key(one: Site | Atom) -> tuple[str, str, int, int, str]:
    return one.chain, one.segment, one.end, one.number, one.insertion


def _pdb(data: bytes, numbers: Sequence[Mapping[int, float]], source: Path) -> bytes:
    """Lines with other columns 61 to 66; those of atoms without a number get 0."""
    known = {row: number for one in numbers for row, number in one.items()}
    lines = lines_of(text_of(data))
    for at, line in enumerate(lines):
        record = line[:6].upper()
        if record != "HETATM" and (record[:4] != "ATOM" or record[4:].strip("0123456789 ")):
            continue
        line = line.expandtabs().ljust(66)
        shift = 0  # a serial number above 99999 shifts all that follows
        while line[6 + shift : 12 + shift].isdigit():
            shift += 1
        begin = 60 + shift
        text = _six(known.get(at + 1, 0.0), source)
        lines[at] = line.ljust(begin + 6)[:begin] + text + line[begin + 6 :]
    return "\n".join(lines).encode()


def _six(number: float, source: Path) -> str:
    for decimals in (2, 1, 0):
        if len(text := f"{number:6.{decimals}f}") == 6:
            return text
    raise ValueError(
        f"values: {number:g} has more than the six places of a B factor in a PDB file; give "
        f"{source.name} as mmCIF."
    )


def _cif(
    data: bytes,
    kind: str,
    models: Sequence[Model],
    numbers: Sequence[Mapping[int, float]],
    source: Path,
) -> bytes:
    """The tables ``_atom_site`` with another column ``B_iso_or_equiv``, written by biotite."""
    pdbx = require("biotite.structure.io.pdbx", extra="protein", why="B factors in mmCIF files")
    known = [
        (atom.row, one.get(atom.row, 0.0))
        for model, one in zip(models, numbers, strict=True)
        for atom in model.atoms
    ]
    # rows of a table, and of one table behind another, ascend
    column = [number for _, number in sorted(known, key=lambda pair: pair[0])]
    file: Any = (
        pdbx.BinaryCIFFile.read(io.BytesIO(data))
        if kind == "bcif"
        else pdbx.CIFFile.read(io.StringIO("\n".join(lines_of(text_of(data)))))
    )
    blocks = [block for block in file.values() if "atom_site" in block]
    if kind == "bcif" and len(blocks) > 1:
        raise ValueError(
            f"source: {source} has {len(blocks)} blocks with atoms in BinaryCIF; give it as mmCIF."
        )
    tables = [block["atom_site"] for block in blocks]
    if sum(table.row_count for table in tables) != len(column):
        raise ValueError(
            f"source: biotite reads {sum(table.row_count for table in tables)} atoms of {source}, "
            f"and it has {len(column)}; write it anew, with one atom a line."
        )
    place = 0
    for table in tables:
        own = column[place : place + table.row_count]
        place += table.row_count
        name = next((one for one in table if one.lower() == "b_iso_or_equiv"), "B_iso_or_equiv")
        table[name] = own if kind == "bcif" else [f"{number:.4f}" for number in own]
    made = io.BytesIO() if kind == "bcif" else io.StringIO()
    file.write(made)
    written = made.getvalue()
    return written if isinstance(written, bytes) else written.encode()
