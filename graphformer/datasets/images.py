"""Label images, voxel volumes and the tables that go with them, read from files and checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from graphformer.errors import MissingExtra, require

SUFFIXES = (".png", ".tif", ".tiff", ".npy")


class Table(NamedTuple):
    """Columns of numbers, a row a key (a grain's label or a file's name)."""

    columns: tuple[str, ...]
    rows: dict[str, list[float]]


def read_image(path: str | Path) -> np.ndarray:
    """The values of an image or a volume, as they are in the file: a palette image gives the indices, not the colours.

    Raises:
        ValueError: no such file, another suffix, a file that cannot be read, floats, or a colour image; the error names the file.
        MissingExtra: PNG and TIFF need scikit-image and what comes with it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}.")
    try:
        if path.suffix.lower() == ".npy":
            image = np.load(path, allow_pickle=False)
        elif path.suffix.lower() == ".png":
            # scikit-image turns palettes into colours, and label images often have a palette.
            with require("PIL.Image", extra="microstructure", why="reading PNG").open(path) as opened:
                image = np.asarray(opened)
        else:
            image = require("skimage.io", extra="microstructure", why="reading TIFF").imread(path)
    except MissingExtra:
        raise
    except Exception as error:  # each decoder has errors of its own
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}); put back a whole file, or leave it out.") from error
    if image.dtype.kind not in "iub":
        raise ValueError(
            f"{path} holds {image.dtype} and labels are integers; if its values are whole numbers, save them with "
            f"np.save(path, np.rint(image).astype(int)), and segment a grey image first."
        )
    if path.suffix.lower() != ".npy" and image.ndim == 3 and image.shape[-1] in (3, 4) and image.dtype == np.uint8:
        raise ValueError(f"{path} is a colour image of shape {image.shape}; save the labels themselves, as one channel or as .npy.")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"{path} has the shape {image.shape}; an image [n0, n1] or a volume [n0, n1, n2] is needed.")
    return image


def read_table(path: str | Path, key: str, *, missing: bool = False) -> Table:
    """A table of numbers from CSV (with a header) or npz (an array a column), by the column ``key``.

    Args:
        path: the file.
        key: the column that names the rows.
        missing: let NaN and empty cells be NaN.

    Raises:
        ValueError: no such file, no such column, a cell that is no number, NaN or infinite, or two rows of one key; the error names
            the file, the row (counted from 1 below the header) and the column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            header = list(arrays)
            rows = [list(row) for row in zip(*[arrays[name].tolist() for name in header], strict=True)]
    else:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    header = [name.strip() for name in header]
    if key not in header:
        raise ValueError(f"{path} has no column {key!r}; it has {', '.join(header) or 'none'}.")
    at = header.index(key)
    found: dict[str, list[float]] = {}
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: {len(row)} cells under {len(header)} columns.")
        name = str(row[at]).strip()
        place = f"{path}, row {number} ({key} {name}), column"
        values = [_number(cell, f"{place} {header[i]!r}", missing) for i, cell in enumerate(row) if i != at]
        if name in found:
            raise ValueError(f"{path}, row {number}: {key} {name} is there twice.")
        found[name] = values
    return Table(tuple(name for name in header if name != key), found)


def encode(table: Table, angles: Mapping[str, float], name: str) -> Table:
    """The table with each angle ``v`` of period ``p`` as two columns, ``cos(2 pi v / p)`` and ``sin(2 pi v / p)``.

    Raises:
        ValueError: an angle that is no column.
    """
    if strange := [angle for angle in angles if angle not in table.columns]:
        raise ValueError(f"angles: {name} has no column {strange[0]!r}; it has {', '.join(table.columns)}.")
    columns: list[str] = []
    for column in table.columns:
        columns += [f"cos_{column}", f"sin_{column}"] if column in angles else [column]
    rows = {}
    for key, values in table.rows.items():
        row: list[float] = []
        for column, value in zip(table.columns, values, strict=True):
            turn = 2 * math.pi * value / angles[column] if column in angles else 0.0
            row += [math.cos(turn), math.sin(turn)] if column in angles else [value]
        rows[key] = row
    return Table(tuple(columns), rows)


def rows_of(table: Table, labels: Sequence[int], name: str) -> np.ndarray:
    """``[N, P]``: the rows of these labels, in their order.

    Raises:
        ValueError: labels without a row.
    """
    rows = {}
    for key, values in table.rows.items():
        label = _number(key, f"{name}, label", False)
        if not label.is_integer():
            raise ValueError(f"{name}: the label {key} is no whole number.")
        rows[int(label)] = values
    if lacking := [label for label in labels if label not in rows]:
        shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        raise ValueError(f"{name} has no row for {len(lacking)} of {len(labels)} grains (labels {shown}).")
    return np.array([rows[label] for label in labels], dtype=float).reshape(len(labels), len(table.columns))


def _number(cell: object, place: str, missing: bool) -> float:
    text = str(cell).strip()
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{place}: {text!r} is no number.") from None
    if math.isinf(value) or (math.isnan(value) and not missing):
        raise ValueError(f"{place}: {text or 'an empty cell'} is no value; remove the row or fill it in.")
    return value
