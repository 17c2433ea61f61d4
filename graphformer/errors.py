"""Errors of this library and the one way to import an optional package."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar

Called = TypeVar("Called", bound=Callable[..., Any])


class MissingExtra(ImportError):
    """An optional package is not installed. The text names the extra that brings it."""


def require_flag(name: str, value: object) -> None:
    """Raise TypeError where ``value`` is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def strict_flags(called: Called) -> Called:
    """A function or a class that takes nothing but True and False where an argument is annotated
    ``bool``, and None too where it is ``bool | None``.

    Python would count a text as true, ``output_graph="no"`` among them. Flags are looked at before
    anything else.
    """
    if inspect.isclass(called):
        called.__init__ = strict_flags(called.__init__)  # type: ignore[method-assign]
        return called
    flags = tuple(
        (
            name,
            place if one.kind is one.POSITIONAL_OR_KEYWORD else sys.maxsize,
            "None" in str(one.annotation),
        )
        for place, (name, one) in enumerate(inspect.signature(called).parameters.items())
        if one.annotation in (bool, bool | None, "bool", "bool | None")
    )
    if not flags:
        raise TypeError(f"{called.__qualname__} has no flag")

    @functools.wraps(called)
    def checked(*args: Any, **kwargs: Any) -> Any:
        count = len(args)
        # before each layer of each token that is generated: without a call
        for name, place, may_be_none in flags:
            value = args[place] if place < count else kwargs.get(name, False)
            if value is True or value is False or (may_be_none and value is None):
                continue
            require_flag(name, value)
        return called(*args, **kwargs)

    return checked  # type: ignore[return-value]


def require_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the known ones, where ``value`` is none of them."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'hidden_size'?"``, or nothing where no known name comes close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    hint: str = "",
) -> float:
    """The value itself, a finite real number in its range.

    Raises:
        TypeError: no number; a bool is none.
        ValueError: NaN, infinite, or out of range; the text names the argument, its value and the
            range.
    """
    # int, float and numpy's, which type checkers do not take for comparable
    kind: Any = numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}){hint}")
    if not math.isfinite(value) or value < least or value <= above or value > most:
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at least {least:g}"] * (
            least > -math.inf
        )
        bounds += [f"at most {most:g}"] * (most < math.inf)
        said = (
            " and ".join(bounds)
            if math.isfinite(value)
            else " ".join(("a finite number", " and ".join(bounds))).strip()
        )
        raise ValueError(f"{name} must be {said}, got {value}{hint}")
    return value


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value itself, a whole number of at least ``least``.

    Raises:
        TypeError: no whole number; a bool is none.
        ValueError: less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional ``module``, or raise :class:`MissingExtra` that names the ``extra`` to
    install.

    Only the module's own absence counts: an installed module that fails to import shows its own
    error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{why} needs the package {module!r}, which is not installed. Install it with: pip "
            f"install 'graphformer[{extra}]'"
        ) from error


def probability(name: str, value: float) -> float:
    """The value itself, checked."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} must be a probability in 0..1, got {value}")
    return value
