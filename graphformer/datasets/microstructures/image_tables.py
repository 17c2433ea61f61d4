"""Tables that go with label images: properties of the grains, a row a label."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from graphformer.datasets.store.keyed import Table, number_of
from graphformer.datasets.store.keyed import read_table as read_table
from graphformer.datasets.store.keyed import targets_of as targets_of
from graphformer.datasets.store.tables import some


def encode(table: Table, angles: Mapping[str, float], name: str) -> Table:
    """The table with each angle ``v`` of period ``p`` as two columns, ``cos(2 pi v / p)`` and
    ``sin(2 pi v / p)``.

    Raises:
        ValueError: an angle that is no column.
    """
    if strange := [angle for angle in angles if angle not in table.columns]:
        raise ValueError(
            f"angles: {name} has no column {strange[0]!r}; it has {', '.join(table.columns)}."
        )
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


def rows_of(
    table: Table, labels: Sequence[int], name: str, ignored: Sequence[int] = ()
) -> np.ndarray:
    """``[N, P]``: the rows of these labels, in their order. Rows of other labels than these and
    ``ignored`` are told in a warning.

    Raises:
        ValueError: labels without a row, or a key that is no label or names one that has a row
            already.
    """
    rows: dict[int, list[float]] = {}
    for key, values in table.rows.items():
        label = _label(key, name)
        if label in rows:
            raise ValueError(f"{name}: label {label} is there twice; leave one row.")
        rows[label] = values
    if lacking := [label for label in labels if label not in rows]:
        raise ValueError(
            f"{name} has no row for {len(lacking)} of {len(labels)} grains (labels "
            f"{some(lacking)})."
        )
    if strange := sorted(set(rows) - set(labels) - set(ignored)):
        warnings.warn(
            f"{name}: {len(strange)} rows are not read, their labels are not in the image "
            f"({some(strange)})",
            stacklevel=2,
        )
    return np.array([rows[label] for label in labels], dtype=float).reshape(
        len(labels), len(table.columns)
    )


def _label(key: str, name: str) -> int:
    try:
        return int(key)  # exact, also above 2^53
    except ValueError:
        value = number_of(key, f"{name}, label", False)
        if not value.is_integer():
            raise ValueError(f"{name}: the label {key} is no whole number.") from None
        return int(value)
