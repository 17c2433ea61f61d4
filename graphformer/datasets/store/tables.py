"""Tables in text: CSV files read whole, with every row counted and every number checked. All tables
of the library come through here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DELIMITERS = (",", ";", "\t")
MISSING = frozenset(
    (
        "",
        "-",
        "--",
        "–",
        "—",
        "?",
        "na",
        "n/a",
        "n.a.",
        "#n/a",
        "#na",
        "<na>",
        "nan",
        "-nan",
        "nat",
        "none",
        "null",
        "nil",
        "missing",
    )
)
"""What stands for a value that is not there, in small letters."""
_LARGEST = float(np.finfo(np.float32).max)  # labels and features are float32


class Row(NamedTuple):
    """A row of a table: its number below the header, from 1; what errors call it; and its cells by
    column (None: the row ends before).
    """

    number: int
    place: str
    cells: dict[str, str | None]
    problem: str | None
    """Why the cells cannot be told apart, where they cannot."""


class Rows(NamedTuple):
    """The header and the rows of a table."""

    header: list[str]
    rows: list[Row]


def read_rows(path: str | Path, columns: Sequence[str] = ()) -> Rows:
    """The header of a CSV file and its rows.

    Commas, semicolons or tabs divide the cells: what divides the header into most. The text is
    UTF-8, or UTF-16 with its mark. Spaces around names of columns and around cells do not count.
    Rows without any content are not counted.

    A row that is longer than the header has a ``problem``, because its cells may stand under the
    wrong columns; the cells that a shorter one lacks are None. A column without a name is called by
    its place, ``column 3``, and a name that comes again gets a number, ``a.1``.

    Args:
        path: the file.
        columns: those that must be there, once.

    Raises:
        ValueError: no such file, a file that is no table or not UTF-8, a quote that is never
            closed, or a column of ``columns`` that is not there or is there twice; the error names
            the file and the line or column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    text = _text(path)
    first = text.lstrip().split("\n", 1)[0]
    header: list[str] = []
    rows: list[Row] = []
    begin = 1
    try:
        # The first of equals: a comma, so that a table of one column is one.
        delimiter = max(
            DELIMITERS, key=lambda one: len(next(csv.reader([first], delimiter=one), []))
        )
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            line, begin = begin, reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                while not cells[-1]:
                    cells.pop()
                _check_header(path, cells, columns)
                header = _names(cells)
            else:
                rows.append(_row(header, cells, len(rows) + 1, line))
    except csv.Error as error:
        told = "a quote is never closed" if "unexpected end" in str(error) else str(error)
        raise ValueError(
            f"{path} cannot be read as a table ({told}, in the row that begins in line {begin}); "
            "give a CSV file in UTF-8, with a header."
        ) from None
    if not header:
        _check_header(path, header, columns)
    return Rows(header, rows)


def number(cell: object) -> float:
    """The number that a cell holds; NaN for an empty one and for those of ``MISSING``.

    Raises:
        ValueError: text that is no number, an infinite one, or one beyond float32; the error tells
            how to write it.
    """
    text = str(cell).strip() if cell is not None else ""
    if text.lower() in MISSING:
        return math.nan
    try:
        if "_" in text:  # Python's own way of writing 1000
            raise ValueError
        value = float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        raise ValueError(f"{text!r} is no number{_hint(text)}") from None
    if math.isinf(value) or abs(value) > _LARGEST:
        raise ValueError(
            f"{text} is no value: it is infinite, or beyond float32; correct it, or leave the cell "
            "empty"
        )
    return value


def numbers(row: Row, columns: Sequence[str]) -> tuple[list[float], list[str]]:
    """The numbers of a row, NaN where there is none, and what is wrong with cells that hold
    something else, a text each.
    """
    values, problems = [], []
    for name in columns:
        try:
            values.append(number(row.cells.get(name)))
        except ValueError as error:
            values.append(math.nan)
            problems.append(f"{row.place}, column {name!r}: {error}")
    return values, problems


def some(names: Sequence[object], most: int = 5) -> str:
    """The first of these names, for an error or a warning."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def _text(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} cannot be read as a table (line {line} is not UTF-8: {error.reason}, "
            f"0x{data[error.start]:02x}); give a CSV file in UTF-8, with a header."
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{path} cannot be read as a table (it is a binary file); give a CSV file in UTF-8, "
            "with a header."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in header:
            hint = ""
            if any(is_number(cell) or "*" in cell for cell in header):
                hint = " Its first line looks like data: give it a header."
            elif header and header[0].startswith("#"):
                hint = " CSV has no comments: remove lines that begin with #."
            raise ValueError(
                f"{path} has no column {name!r}; it has {', '.join(header) or 'none'}.{hint}"
            )
        if header.count(name) > 1:
            raise ValueError(
                f"{path} has the column {name!r} {header.count(name)} times; give each column a "
                "name of its own."
            )


def _names(header: list[str]) -> list[str]:
    """Each name once, so that no column hides another."""
    names: list[str] = []
    for place, name in enumerate(header, start=1):
        name = name or f"column {place}"
        others = header[: place - 1].count(name)
        names.append(f"{name}.{others}" if others else name)
    return names


def _row(header: list[str], cells: list[str], count: int, line: int) -> Row:
    place = f"row {count}" if line == count + 1 else f"row {count} (line {line})"
    over = any(cells[len(header) :])
    problem = (
        f"{len(cells)} cells under {len(header)} columns; put quotes around cells that hold commas"
        if over
        else None
    )
    padded: list[str | None] = [*cells[: len(header)], *[None] * (len(header) - len(cells))]
    return Row(count, place, dict(zip(header, padded, strict=True)), problem)


def is_number(text: str) -> bool:
    """Whether Python reads the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _hint(text: str) -> str:
    plain = text.replace(" ", "").replace("\u00a0", "").replace("'", "").replace("\u2019", "")
    if is_number(plain.replace(",", ".", 1)) and "," in plain:
        return (
            f"; write a decimal point, as in {plain.replace(',', '.', 1)}, and no signs between "
            "thousands"
        )
    if is_number(plain.replace(",", "")) and plain.replace(",", "") != text:
        return f"; write no signs between thousands, as in {plain.replace(',', '')}"
    if text[:1] in "<>~≈=±" or "±" in text:
        return "; write the value alone, or leave the cell empty"
    if text[:1].isdigit() or text[:1] in "+-.":
        return "; write the number alone, with its unit in the header"
    return "; leave the cell empty where there is no value"
