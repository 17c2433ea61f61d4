"""Weights of edges that other libraries' graphs bring: what is not read of them is told."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphformer.errors import did_you_mean

if TYPE_CHECKING:
    import networkx


def floating(name: str, weight: Tensor) -> Tensor:
    """Weights as floating point numbers, which are those that were given.

    Raises:
        TypeError: complex numbers. ValueError: whole numbers that the default dtype rounds.
    """
    if weight.is_complex():
        raise TypeError(f"{name} holds {weight.dtype}, and weights are real; give .real or .abs()")
    if weight.is_floating_point():
        return weight
    made = weight.to(torch.get_default_dtype())
    if weight.dtype != torch.bool and not torch.equal(made.to(weight.dtype), weight):
        raise ValueError(
            f"{name} holds whole numbers up to {int(weight.abs().max())}, which {made.dtype} "
            "rounds; convert it with .double()"
        )
    return made


def refuse_misspelt(name: str, default: str, known: Iterable[str], where: str) -> None:
    """ValueError for a name that was given and that is not there."""
    if name != default:
        there = sorted(known)
        raise ValueError(
            f"weight={name!r}: there is no such name in {where}; it has "
            f"{', '.join(there) or 'none'}{did_you_mean(name, there)}"
        )


def tell_unread(
    store: Mapping[str, Any],
    num_edges: int,
    names: Sequence[str] = ("edge_attr", "weight"),
    where: str = "data",
    wanted: str = "edge_weight",
) -> None:
    """A warning for a floating number an edge that stands under another name than the weights."""
    for name in names:
        value = store.get(name) if hasattr(store, "get") else store[name]
        if not isinstance(value, Tensor) or not value.is_floating_point() or not num_edges:
            continue
        if value.shape in ((num_edges,), (num_edges, 1)):
            warnings.warn(
                f"{where} has no {wanted!r}, so all edges weigh 1, and its {name!r}, a number an "
                f"edge, is not read; if these are weights, name them {wanted!r}",
                stacklevel=3,
            )


def of_networkx(graph: networkx.Graph, weight: str) -> None:
    """What the attributes of edges leave open: ValueError for a misspelt name, a warning for edges
    that weigh 1 because they lack it.
    """
    rows = [attributes for _, _, attributes in graph.edges(data=True)]
    lacking = sum(weight not in attributes for attributes in rows)
    if not lacking:
        return
    names = {name for attributes in rows for name in attributes}
    if lacking == len(rows):
        refuse_misspelt(weight, "weight", names, "the edges' attributes")
        told = sorted(name for name in names if all(_is_number(row.get(name)) for row in rows))
        if told:
            warnings.warn(
                f"the edges have no {weight!r}, so all weigh 1, and a number an edge is not read: "
                f"{', '.join(told)}; if these are weights, give weight={told[0]!r}",
                stacklevel=3,
            )
        return
    warnings.warn(
        f"{lacking} of {len(rows)} edges have no {weight!r} and weigh 1; give them one",
        stacklevel=3,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
