"""Atoms of PDB, mmCIF and BinaryCIF files as columns, row by row.

A part that is not needed here (serial number, B factor, charge) is not looked at, and what cannot
be read in a part that is needed is unknown in that row alone. Hence no reader of a library stands
here for text: biotite's ends a whole file at one blank occupancy, passes over TER, and takes a line
of a text between semicolons for the start of a table.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from graphformer.datasets.proteins.files import UnreadableStructure, lines_of, text_of
from graphformer.errors import require

UNNUMBERED = -(2**31)
"""The number of a residue whose number cannot be read."""

_UNPLACED = 9999.0  # Å; programs mark atoms without a place by such coordinates
_SEGMENT = re.compile(r"[A-Za-z][A-Za-z0-9]{0,3}$")
_SIX_DIGITS = re.compile(r"\d{6}")


class Atom(NamedTuple):
    """A row of a file."""

    chain: str
    segment: str  # what tells chains of one name apart: segment id, or chain of mmCIF's label
    end: int  # how many chains were ended (TER) before it
    label: str  # number as it is written
    number: int
    insertion: str
    residue: str
    name: str
    altloc: str
    element: str
    hetero: bool
    occupancy: float  # NaN: not given
    place: tuple[float, float, float] | None
    row: int


class Model(NamedTuple):
    """The atoms of one model, and rows that seem to be atoms and cannot be read as such."""

    atoms: list[Atom]
    strays: list[int]


def read_models(data: bytes, kind: str, *, charges: bool = False) -> Iterator[Model | int]:
    """How many models there are, and then each of them.

    Args:
        data: the file.
        kind: ``"pdb"``, ``"cif"`` or ``"bcif"``.
        charges: the columns of segment ids hold charges (PDBQT).

    Raises:
        UnreadableStructure: there are no atoms, or the table of atoms is not whole.
    """
    if kind == "pdb":
        models, strays = _pdb_models(lines_of(text_of(data)))
        yield len(models)
        for number, rows in enumerate(models):
            yield Model([_pdb_atom(*row, charges) for row in rows], strays if number == 0 else [])
        return
    tables = _binary_tables(data) if kind == "bcif" else _cif_tables(lines_of(text_of(data)))
    parts = [part for table in tables for part in _cif_models(table)]
    if not parts:
        raise UnreadableStructure("cannot be read (there are no atoms)")
    yield len(parts)
    for atoms in parts:
        yield Model(atoms, [])


# --- PDB


def _pdb_models(lines: list[str]) -> tuple[list[list[tuple[int, int, str]]], list[int]]:
    """Rows (row, chains that ended before it, line) of each model, and stray rows.

    MODEL and ENDMDL part models. END does where the same atoms follow again, as in trajectories;
    where others follow, two files were joined to one structure.
    """
    pieces: list[tuple[bool, list[tuple[int, int, str]]]] = [(True, [])]
    strays, ends = [], 0
    for row, line in enumerate(lines, start=1):
        line = line.expandtabs() if "\t" in line else line
        record = line[:6].upper()
        if record == "HETATM" or (record[:4] == "ATOM" and not record[4:].strip("0123456789 ")):
            pieces[-1][1].append((row, ends, line))
        elif record[:3] == "TER" and not record[3:].strip():
            ends += 1
        elif record[:5] == "MODEL" or record.rstrip() in ("ENDMDL", "END"):
            ends += 1
            if pieces[-1][1]:
                pieces.append((record.rstrip() != "END", []))
            elif record.rstrip() != "END":
                pieces[-1] = (True, [])
        elif line.lstrip()[:6].rstrip().upper() in ("ATOM", "HETATM"):
            strays.append(row)
    models: list[list[tuple[int, int, str]]] = []
    for parted, rows in pieces:
        if not rows:
            continue
        if models and not parted and not _same_atoms(models[-1], rows):
            models[-1] += rows
        else:
            models.append(rows)
    if not models:
        told = (
            f"; row {strays[0]} looks like one and does not start in its column" if strays else ""
        )
        raise UnreadableStructure(f"cannot be read (there are no atoms{told})")
    return models, strays


def _same_atoms(one: list[tuple[int, int, str]], other: list[tuple[int, int, str]]) -> bool:
    return len(one) == len(other) and all(
        a[2][12:27] == b[2][12:27] for a, b in zip(one, other, strict=True)
    )


def _pdb_atom(row: int, end: int, line: str, charges: bool) -> Atom:
    while _SIX_DIGITS.match(line, 6):  # a serial number above 99999 shifts all that follows
        line = line[:6] + line[7:]
    line = line.ljust(80)
    label, insertion = line[22:26].strip(), line[26].strip()
    if insertion.isdigit():  # numbers of five digits
        label, insertion = label + insertion, ""
    segment = line[72:76].strip()
    named = not charges and _SEGMENT.match(segment)
    element = line[76:78].strip().upper()
    if not element.isalpha():  # blank, or the number of the line in old files
        element = "CA" if line[12:14].upper() == "CA" else ""
    return Atom(
        chain=line[21].strip(),
        segment=segment if named else "",
        end=end,
        label=label,
        number=_number(label),
        insertion=insertion,
        residue=line[17:21].strip().upper(),
        name=line[12:16].strip().upper(),
        altloc=line[16].strip(),
        element=element,
        hetero=line[:6].upper() == "HETATM",
        occupancy=_float(line[54:60]),
        place=_pdb_place(line),
        row=row,
    )


def _pdb_place(line: str) -> tuple[float, float, float] | None:
    parts = [line[at : at + 8] for at in (30, 38, 46)]
    decimals = [len(part.partition(".")[2].strip()) for part in parts]
    if decimals[2] < decimals[0] and len(line.rstrip()) < 54:
        return None  # the row was cut off in its last coordinate: 1 or 12. of 12.345
    # A token that crosses the border of two columns is right only where both are filled as %8.3f.
    for at in (30, 38, 46, 54):
        crosses = not line[at - 1].isspace() and not line[at].isspace()
        if crosses and not all(line[n - 4] == "." for n in (at, at + 8) if 30 < n < 60):
            return None
    return _place(*map(_float, parts))


def _number(label: str) -> int:
    """A number as it is written: decimal, hybrid-36 (A000 is 10000), or VMD's hexadecimal."""
    if re.fullmatch(r"[-+]?\d+", label, re.ASCII):
        return int(label) if abs(int(label)) < 2**31 else UNNUMBERED
    if not label:
        return UNNUMBERED
    where = "biotite.structure.io.pdb.hybrid36"
    module = require(where, extra="protein", why="reading structures")
    try:
        return int(module.decode_hybrid36(label))
    except ValueError:
        return int(label, 16) if re.fullmatch("[0-9A-Fa-f]{4,5}", label) else UNNUMBERED


# --- mmCIF and BinaryCIF

Table = dict[str, list[str | None]]
_TOKEN = re.compile(r"""'(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|#.*|\S+""")
_ROWS = "rows"  # the key of row numbers in a table


def _tokens(lines: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Row, word, and whether it is quoted."""
    numbered = iter(enumerate(lines, start=1))
    for row, line in numbered:
        if line.startswith(";"):
            text = [line[1:]]
            for _, line in numbered:
                if line.startswith(";"):
                    break
                text.append(line)
            else:
                raise UnreadableStructure(
                    f"cannot be read (the text that starts in row {row} has no end)"
                )
            yield row, "\n".join(text), True
            line = line[1:]
        if "'" not in line and '"' not in line and "#" not in line:
            for word in line.split():
                yield row, word, False
            continue
        for word in _TOKEN.findall(line):
            if word[0] == "#":
                break
            quoted = len(word) > 1 and word[0] in "'\"" and word[-1] == word[0]
            yield row, word[1:-1] if quoted else word, quoted


def _cif_tables(lines: list[str]) -> list[Table]:
    """The table ``_atom_site`` of each block that has one."""
    tables: list[Table] = []
    single: Table = {}
    tags: list[str] = []
    values: list[str | None] = []
    rows: list[int] = []
    state = ""  # "tags" and "values" of a loop, "value" of a tag alone

    def close() -> None:
        nonlocal tags, values, rows, single
        if tags and tags[0].startswith("_atom_site."):
            if len(values) % len(tags):
                last = f"{len(values) % len(tags)} of {len(tags)} values"
                raise UnreadableStructure(
                    f"cannot be read (its last atom, row {rows[-1]}, has {last})"
                )
            table: Table = {
                tag.split(".", 1)[1]: values[at :: len(tags)] for at, tag in enumerate(tags)
            }
            tables.append({**table, _ROWS: list(map(str, rows[:: len(tags)]))})
        tags, values, rows = [], [], []

    for row, word, quoted in _tokens(lines):
        lower = "" if quoted else word.lower()
        if lower == "loop_" or lower.startswith(("data_", "save_")):
            close()
            if lower != "loop_" and single:
                tables.append({**single, _ROWS: [str(row)]})
                single = {}
            state = "tags" if lower == "loop_" else ""
        elif lower.startswith("_"):
            if state == "tags":
                tags.append(lower)
                continue
            close()
            tags, state = [lower], "value"
        elif state == "value":
            if tags[0].startswith("_atom_site."):  # a table of one atom
                single[tags[0].split(".", 1)[1]] = [_known(word, quoted)]
            tags, state = [], ""
        elif state in ("tags", "values"):
            state = "values"
            if tags and tags[0].startswith("_atom_site."):
                values.append(_known(word, quoted))
                rows.append(row)
    close()
    return tables + ([{**single, _ROWS: ["1"]}] if single else [])


def _known(word: str, quoted: bool) -> str | None:
    return None if word in (".", "?") and not quoted else word


def _binary_tables(data: bytes) -> list[Table]:
    """The same of BinaryCIF, with biotite."""
    module = require("biotite.structure.io.pdbx", extra="protein", why="reading structures")
    # Broken files make a parser fail in its own ways (an index, a key): each says that the file is
    # broken.
    try:
        tables: list[Table] = []
        for block in module.BinaryCIFFile.read(io.BytesIO(data)).values():
            if "atom_site" not in block:
                continue
            table: Table = {}
            for name, column in block["atom_site"].items():
                values = column.data.array.tolist()
                gone = (
                    [False] * len(values)
                    if column.mask is None
                    else (column.mask.array != 0).tolist()
                )
                table[name.lower()] = [
                    None if lost else str(v) for v, lost in zip(values, gone, strict=True)
                ]
            if len({len(values) for values in table.values()}) > 1:
                raise ValueError("columns of the atoms differ in length")
            count = len(next(iter(table.values()), []))
            table[_ROWS] = [str(n) for n in range(1, count + 1)]
            tables.append(table)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        raise UnreadableStructure(f"cannot be read ({type(error).__name__}: {reason})") from error
    return tables


def _cif_models(table: Table) -> list[list[Atom]]:
    """The atoms of each model of a table, in the order in which models come first."""
    count = len(table[_ROWS])
    empty: list[str | None] = [None] * count

    def column(*names: str) -> list[str]:
        """Of each row the first that is given."""
        given = [table[name] for name in names if name in table] or [empty]
        return [next((v for v in row if v is not None), "") for row in zip(*given, strict=True)]

    for needed in (
        ("cartn_x",),
        ("cartn_y",),
        ("cartn_z",),
        ("auth_atom_id", "label_atom_id"),
        ("auth_comp_id", "label_comp_id"),
    ):
        if not any(name in table for name in needed):
            raise UnreadableStructure(
                f"cannot be read (its atoms have no column {' or '.join(needed)})"
            )
    models: dict[str, list[Atom]] = {}
    columns = (
        column("pdbx_pdb_model_num"),
        column("auth_asym_id", "label_asym_id"),
        column("label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_pdb_ins_code"),
        column("auth_comp_id", "label_comp_id"),
        column("auth_atom_id", "label_atom_id"),
        column("label_alt_id"),
        column("type_symbol"),
        column("group_pdb"),
        column("occupancy"),
        column("cartn_x"),
        column("cartn_y"),
        column("cartn_z"),
        column(_ROWS),
    )
    for (
        model,
        chain,
        segment,
        label,
        code,
        residue,
        name,
        altloc,
        element,
        group,
        occupancy,
        x,
        y,
        z,
        row,
    ) in zip(*columns, strict=True):
        parted = re.fullmatch(r"([-+]?\d+)([A-Za-z]?)", label)
        atom = Atom(
            chain=chain,
            segment=segment,
            end=0,
            label=label,
            number=_number(parted[1] if parted else label),
            insertion=code or (parted[2] if parted else ""),
            residue=residue.upper(),
            name=name.strip().upper(),
            altloc=altloc,
            element=element.upper(),
            hetero=group.upper() == "HETATM",
            occupancy=_float(occupancy),
            place=_place(_float(x), _float(y), _float(z)),
            row=int(row),
        )
        models.setdefault(model, []).append(atom)
    return list(models.values())


def _float(text: str) -> float:
    """A number, without the uncertainty that CIF may write behind it; NaN where there is none."""
    text = text.split("(", 1)[0].strip()
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _place(x: float, y: float, z: float) -> tuple[float, float, float] | None:
    return (x, y, z) if all(math.isfinite(v) and abs(v) < _UNPLACED for v in (x, y, z)) else None


def places(atoms: list[Atom]) -> np.ndarray:
    """Coordinates ``[n, 3]``, NaN where there are none."""
    nowhere = (math.nan,) * 3
    return np.array([atom.place or nowhere for atom in atoms], dtype=np.float32).reshape(-1, 3)
