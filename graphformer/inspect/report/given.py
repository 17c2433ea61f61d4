"""Numbers that are given for each head: measures and ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphformer.errors import did_you_mean, whole

if TYPE_CHECKING:
    from graphformer.inspect.value import ModelGraphs

Key = tuple[int, int | None]
ABOUT = ("sequence", "layer", "name", "kind", "head")  # columns that are no measures


def measures_of(given: Any, graphs: ModelGraphs) -> dict[Key, dict[str, float | None]]:
    """By the layer's number and the head, from a mapping or from the table of measures."""
    if _is_table(given, "measures", ("layer", "head")):
        names = [name for name in given.columns if name not in ABOUT]
        means = given.groupby(["layer", "head"])[names].mean()
        given = {
            (layer, None if head < 0 else head): dict(zip(names, row, strict=True))
            for (layer, head), row in zip(means.index, means.to_numpy().tolist(), strict=True)
        }
    found = _by_head("measures", given, graphs)
    for key, values in found.items():
        if not isinstance(values, Mapping):
            raise TypeError(
                f"measures of layer {key[0]}, head {key[1]} must be a dictionary of numbers, got "
                f"{values!r}"
            )
    return {
        key: {str(name): _figure("measures", key, value) for name, value in values.items()}
        for key, values in found.items()
    }


def ablation_of(given: Any, graphs: ModelGraphs) -> dict[Key, float | None]:
    """By the layer's number and the head, from a mapping or from the table of ablations."""
    if _is_table(given, "ablation", ("name", "layer", "head", "change")):
        # The table counts the layers of a pass, of which the graphs may be some. Names tell them
        # apart, but where one module ran more than once.
        alone = len(set(graphs.names)) == len(graphs.names)
        given = dict(
            zip(
                zip(given["name" if alone else "layer"].tolist(), given["head"], strict=True),
                given["change"].tolist(),
                strict=True,
            )
        )
    found = _by_head("ablation", given, graphs)
    return {key: _figure("ablation", key, value) for key, value in found.items()}


def _is_table(given: Any, option: str, columns: tuple[str, ...]) -> bool:
    """Whether it is a pandas table, which is not imported for that."""
    if not hasattr(given, "columns"):
        return False
    if missing := [name for name in columns if name not in given.columns]:
        raise ValueError(
            f"{option} is a table without the columns {missing}; it has {list(given.columns)}"
        )
    return True


def _by_head(option: str, given: Any, graphs: ModelGraphs) -> dict[tuple[int, int | None], Any]:
    """What is given for each head, by the layer's number; a name counts for each layer of it."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{option} must be a mapping from (layer, head), got {type(given).__name__}"
        )
    found: dict[tuple[int, int | None], Any] = {}
    for key, value in given.items():
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError(f"{option} is keyed by (layer, head), got the key {key!r}")
        layer, head = key
        if isinstance(layer, str):
            numbers = [i for i, name in enumerate(graphs.names) if name == layer]
        else:
            numbers = [whole(f"the layer of {option}", layer, 0)]
        if not numbers or numbers[0] >= len(graphs):
            raise ValueError(
                f"{option} has the key {key!r}, and there is no such layer"
                + (did_you_mean(layer, graphs.names) if isinstance(layer, str) else "")
                + f"; there are {len(graphs)} layers, {graphs.names[0]!r} to {graphs.names[-1]!r}"
            )
        for number in numbers:
            heads = graphs.layers[number].heads or (None,)
            if head not in heads:
                raise ValueError(
                    f"{option} has the key {key!r}, and {graphs.layers[number].name} has no such "
                    f"head; its heads: {list(heads)}"
                )
            found[number, None if head is None else int(head)] = value
    return found


def _figure(option: str, key: tuple[int, int | None], value: Any) -> float | None:
    """A number for the page; None for NaN, which JSON does not have."""
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{option} of layer {key[0]}, head {key[1]} is no number: {value!r}") from (
            error
        )
    return found if math.isfinite(found) else None
