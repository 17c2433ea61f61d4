"""Tables of numbers with a column that names the rows, and the targets that they give to files."""

from __future__ import annotations

import difflib
import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphformer.datasets.store.arrays import plain
from graphformer.datasets.store.tables import number, read_rows, some


class Table(NamedTuple):
    """Columns of numbers, a row a key (a grain's label or a file's name)."""

    columns: tuple[str, ...]
    rows: dict[str, list[float]]


def read_table(path: str | Path, key: str, *, missing: bool = False) -> Table:
    """A table of numbers from CSV (with a header, see
    :func:`~graphformer.datasets.store.tables.read_rows`) or npz (an array a column).

    Args:
        path: the file.
        key: the column that names the rows.
        missing: let NaN, empty cells and those of
            :data:`~graphformer.datasets.store.tables.MISSING` be NaN.

    Raises:
        ValueError: no such file, no such column, a column without a name or with the name of
            another, a cell that is no number, NaN or infinite, a row of another length, or two rows
            of one key; the error names the file, the row (counted from 1 below the header) and the
            column.
    """
    path = Path(path)
    header, rows = _of_npz(path, key) if path.suffix.lower() == ".npz" else _of_csv(path, key)
    at = header.index(key)
    found: dict[str, list[float]] = {}
    for place, cells in rows:
        name = str(cells[at]).strip()
        if not name:
            raise ValueError(f"{path}, {place}: the cell {key!r} is empty; name the {key}.")
        if name in found:
            raise ValueError(f"{path}, {place}: {key} {name} is there twice; leave one row.")
        found[name] = [
            number_of(c, f"{path}, {place} ({key} {name}), column {header[i]!r}", missing)
            for i, c in enumerate(cells)
            if i != at
        ]
    return Table(tuple(name for name in header if name != key), found)


def targets_of(
    targets: Any, files: Sequence[Path], missing: bool
) -> tuple[tuple[str, ...], list[list[float]] | None]:
    """The names of the targets and their values for each file: those of the row with the file's
    name, its stem, or its path.

    A row that belongs to no file, and with ``missing`` a file that has no row, is told in a
    warning, with the name that is most alike.

    Raises:
        ValueError: a file without a row (unless ``missing``), with two, or none that has one; a row
            that names two files; and as for :func:`read_table`.
    """
    if targets is None:
        return (), None
    if isinstance(targets, Mapping):
        table, origin = _of_mapping(targets, missing), "targets"
    else:
        table, origin = read_table(targets, "file", missing=missing), f"targets: {targets}"
        if not table.columns:
            raise ValueError(f"{origin} has no column beside 'file'; give a column a target.")
    owners = _owners(list(table.rows), files, origin)
    lacking = [path for path in files if path not in owners]
    strange = [key for key in table.rows if key not in owners.values()]
    if len(lacking) == len(files):
        raise ValueError(
            f"{origin} has no row for any of the {len(files)} files{_alike(lacking, strange)}."
        )
    if lacking and not missing:
        told = (
            f"{len(lacking)} of {len(files)} files: {some([path.name for path in lacking])}"
            if len(lacking) > 1
            else lacking[0].name
        )
        remedy = "add one, or use missing=True for models that skip NaN"
        raise ValueError(f"{origin} has no row for {told}{_alike(lacking, strange)}; {remedy}.")
    if lacking:
        told = (
            f"{len(lacking)} of {len(files)} files, which have no label: "
            f"{some([path.name for path in lacking])}"
        )
        warnings.warn(f"{origin} has no row for {told}{_alike(lacking, strange)}", stacklevel=3)
    if strange:
        told = (
            f"{origin}: {len(strange)} of {len(table.rows)} rows belong to no file: {some(strange)}"
        )
        warnings.warn(told + ("" if lacking else _alike(files, strange)), stacklevel=3)
    return table.columns, [
        table.rows[owners[path]] if path in owners else [math.nan] * len(table.columns)
        for path in files
    ]


def _owners(keys: Sequence[str], files: Sequence[Path], origin: str) -> dict[Path, str]:
    """The key of each file that has one."""
    called: dict[str, list[Path]] = {}
    for path in dict.fromkeys(files):
        for name in {path.name, path.stem, str(path)}:
            called.setdefault(name, []).append(path)
    folded: dict[str, list[Path]] = {}
    for path in dict.fromkeys(files):
        folded.setdefault(path.name.lower(), []).append(path)
    owners: dict[Path, str] = {}
    for key in keys:
        # A.PNG for A.png: file systems differ in that
        meant = called.get(key) or folded.get(key.lower(), [])
        if len(meant) > 1:
            raise ValueError(
                f"{origin}: {key!r} names {some(meant)}; write the path or the suffix that tells "
                "them apart."
            )
        if meant and meant[0] in owners:
            raise ValueError(
                f"{origin}: {owners[meant[0]]!r} and {key!r} are both of {meant[0].name}; leave "
                "one."
            )
        if meant:
            owners[meant[0]] = key
    return owners


def _alike(files: Sequence[Path], keys: Sequence[str]) -> str:
    """A hint where a name was probably misspelt."""
    for path in files:
        for name in (path.name, path.stem):
            if found := difflib.get_close_matches(name, keys, n=1, cutoff=0.75):
                return f" (is {found[0]!r} meant for {path.name}?)"
    return ""


def _of_mapping(targets: Mapping[str, Any], missing: bool) -> Table:
    rows = {str(name): _numbers(str(name), value) for name, value in targets.items()}
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"targets must have as many values for each file, got {sorted(lengths)} of them."
        )
    for name, row in rows.items():
        if (np.abs(row) > np.finfo(np.float32).max).any():
            raise ValueError(
                f"targets: {name!r} has {row}, which is infinite, or beyond float32; leave the "
                "file out, or correct it."
            )
        if not missing and np.isnan(row).any():
            raise ValueError(
                f"targets: {name!r} has {row}; leave the file out, or use missing=True for models "
                "that skip NaN."
            )
    return Table(tuple(f"target_{i}" for i in range(lengths.pop())), rows)


def _numbers(name: str, value: Any) -> list[float]:
    plain(f"targets[{name!r}]", value)
    try:
        return np.atleast_1d(np.asarray(value, dtype=float)).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"targets: {name!r} has {value!r}, no number ({error}).") from None


def _of_csv(path: Path, key: str) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    header, rows = read_rows(path, (key,))
    if strange := [
        name
        for name in header
        if name.startswith("column ") or ("." in name and name.rpartition(".")[0] in header)
    ]:
        raise ValueError(
            f"{path}: {strange[0]!r} has no name of its own; every column is read: name it, or "
            "take it out."
        )
    cells = []
    for row in rows:
        if row.problem or None in row.cells.values():
            count = sum(cell is not None for cell in row.cells.values())
            raise ValueError(
                f"{path}, {row.place}: "
                f"{row.problem or f'{count} cells under {len(header)} columns'}."
            )
        cells.append((row.place, list(row.cells.values())))
    return header, cells


def _of_npz(path: Path, key: str) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); put back a whole file."
        ) from error
    if key not in columns:
        raise ValueError(f"{path} has no column {key!r}; it has {', '.join(columns) or 'none'}.")
    for name, array in columns.items():
        if array.ndim != 1 or len(array) != columns[key].size:
            raise ValueError(
                f"{path}: the column {name!r} has the shape {array.shape} and {key!r} has "
                f"{columns[key].shape}; give vectors."
            )
        if array.dtype.kind not in "iufbUS":
            raise ValueError(
                f"{path}: the column {name!r} holds {array.dtype}, and numbers are needed."
            )
    lists = [
        array.astype(str).tolist() if array.dtype.kind == "S" else array.tolist()
        for array in columns.values()
    ]
    return list(columns), [
        (f"row {i}", list(row)) for i, row in enumerate(zip(*lists, strict=True), start=1)
    ]


def number_of(cell: object, place: str, missing: bool) -> float:
    try:
        value = number(cell)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from None
    if math.isnan(value) and not missing:
        raise ValueError(
            f"{place}: {str(cell).strip() or 'an empty cell'} is no value; remove the row or fill "
            "it in."
        )
    return value
