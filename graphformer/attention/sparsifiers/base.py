"""Slot 4, sparsify: which weights stay as edges, one receiver's row at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import Slot, check_slot
from graphformer.attention.slot import from_spec as any_from_spec
from graphformer.graph.counts import magnitude


class Sparsifier(Slot, slot="sparsify"):
    """Base of the sparsifiers; one of your own overrides :meth:`keep`.

    A kept weight keeps its value; with ``renormalize`` the kept weights of a row are divided by the
    sum of their absolute values. Sparsifiers combine with ``&``: an edge stays if both keep it.

    Attributes:
        renormalize: whether it does so.
        reweighs: whether :meth:`refine` does more than ``renormalize`` says.
        then: a sparsifier for the weights that :meth:`refine` made.
        adds: whether it keeps edges that nothing else may cut.
    """

    renormalize: bool = False
    reweighs: bool = False
    then: Sparsifier | None = None
    adds: bool = False
    said_of: ClassVar = {"keep": ("bound",)}

    @property
    def bound(self) -> float | None:
        """A number such that exactly the candidates of greater weight are kept; ``None`` where the
        rule is another one.
        """
        return None

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        """Bool of the weights' shape: which pairs stay. Pairs that are no candidates stay out
        whatever is said of them.
        """
        raise NotImplementedError

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        """The weights of the kept pairs, which are the candidates now; divided by each row's sum if
        ``renormalize`` says so.
        """
        return renormalized(weights, pairs) if self.renormalize else weights

    def __and__(self, other: Sparsifier) -> Sparsifier:
        return Both(self, other)


def renormalized(weights: Tensor, pairs: Block | Listed) -> Tensor:
    """Divided by the sum of the row's absolute weights; weights that are all 0 stay so.

    The sum itself may be about 0 where weights have either sign, and dividing by it would have no
    bound.
    """
    total = pairs.sum(magnitude(weights))
    safe = torch.where(total == 0, torch.ones_like(total), total)
    return torch.where(total == 0, torch.zeros_like(weights), weights / safe)


@dataclass(frozen=True)
class Both(Sparsifier, name="both"):
    """Edges that both sparsifiers keep; both judge the same weights, and then the first refines
    them, then the second.
    """

    first: Sparsifier
    second: Sparsifier

    def __post_init__(self) -> None:
        for one in (self.first, self.second):
            if not isinstance(one, Sparsifier):
                raise TypeError(f"& combines two sparsifiers, got {type(one).__name__}")
            if one.adds:
                raise ValueError(
                    f"& would cut the edges that {type(one).__name__} adds: give it the other one, "
                    f"{type(one).__name__}(..., keep=...)"
                )
            if one.then is not None:
                raise ValueError(
                    f"{type(one).__name__} with then={one.then} cuts weights that another "
                    "sparsifier has not seen: put the other one into its then"
                )

    @property
    def renormalize(self) -> bool:  # type: ignore[override]
        return self.first.renormalize or self.second.renormalize

    @property
    def reweighs(self) -> bool:  # type: ignore[override]
        return self.first.reweighs or self.second.reweighs

    @property
    def bound(self) -> float | None:
        first, second = self.first.bound, self.second.bound
        return None if first is None or second is None else max(first, second)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return self.first.keep(weights, pairs) & self.second.keep(weights, pairs)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return self.second.refine(self.first.refine(weights, pairs), pairs)


def from_spec(spec: Mapping[str, Any], num_heads: int) -> Sparsifier:
    """A sparsifier from plain values, as a config file holds it: its name and its arguments,
    sparsifiers among them again as plain values.

    >>> keep = {"name": "top_k", "k": 3}
    >>> from_spec({"name": "reweigh", "curve": "binary", "tau": 0.0, "keep": keep}, num_heads=4)

    Names: ``threshold``, ``top_k``, ``top_fraction``, ``reweigh``, ``normalize_weights``, ``both``,
    and those of registered sparsifiers of your own.
    """
    return any_from_spec("sparsify", spec, num_heads=num_heads)


def check(value: Sparsifier | Mapping[str, Any] | None) -> Sparsifier | None:
    """The value itself, or TypeError with the remedy."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise TypeError(
            f"sparsify must be a sparsifier, got the number {value}; write "
            f"sparsify=gf.Threshold({value})"
        )
    return check_slot(
        "sparsify", Sparsifier, value, "None, gf.Threshold, gf.TopK or another Sparsifier"
    )
