"""Arrays that callers give: what numpy would drop of them without a word is refused."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


def plain(name: str, values: Any, dtype: Any = None) -> np.ndarray:
    """``np.asarray``, but for masked arrays, whose mask it drops: hidden values would count.

    Raises:
        ValueError: an array that hides values.
    """
    if np.ma.is_masked(values):
        hidden = int(np.ma.getmaskarray(values).sum())
        raise ValueError(
            f"{name} is a masked array that hides {hidden} of {np.size(values)} values, and masks "
            f"are not read; give {name}.filled(...) with values of your own, or leave them out."
        )
    return np.asarray(values, dtype=dtype)


def columns(name: str, values: Any) -> np.ndarray:
    """Columns of numbers that become features, float64 ``[N, P]``: finite, and of float32's range.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, a value that is not finite or too large, a masked array.
    """
    given = plain(name, values)
    if given.dtype.kind not in "iufb":
        raise TypeError(f"{name} must be real numbers, got {given.dtype}.")
    if given.ndim != 2:
        raise ValueError(f"{name} must be [N, P], a column a property, got shape {given.shape}.")
    table = given.astype(float)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(table) <= _LARGEST)
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} must be finite numbers that float32 holds, got {table[row, column]} in row "
            f"{row}, column {column}."
        )
    return table


def labels(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """Whole numbers from any iterable, which is gone through once: a generator has no second time.

    Raises:
        TypeError: a number alone, a text, or members that are no whole numbers.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of whole numbers, got {values!r}.")
    found = tuple(values)
    for one in found:
        if not isinstance(one, numbers.Integral) and not (
            isinstance(one, numbers.Real) and float(one).is_integer()
        ):
            raise TypeError(f"{name} must be whole numbers, got {one!r}.")
    return tuple(int(one) for one in found)
