"""Ranks that spend a number of parameters as LoRA would: each kind of bottleneck gets what LoRA
pays for its linear layers, and what rounding leaves goes where it fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from graphformer.adapters.bottlenecks.plan import Plan

CLOSE = 0.0025
"""Of ranks that come so close to the number, those nearest to LoRA's shares are taken."""


@dataclass(frozen=True)
class Kind:
    """The bottlenecks of one name, in all layers.

    Attributes:
        name: a pattern for ``rank_pattern``.
        cost: what one rank more costs in all of them.
        share: what one rank of LoRA costs on their linear layers.
    """

    name: str
    cost: int
    share: int


def kinds(plan: Plan) -> list[Kind]:
    """Those of an adapter."""
    cost: dict[str, int] = {}
    share: dict[str, int] = {}
    for group in plan.groups:
        cost[group.name] = cost.get(group.name, 0) + group.size(1)
        share[group.name] = share.get(group.name, 0) + sum(
            one.in_features + one.out_features for one in group.members
        )
    return [Kind(name.replace(".", r"\."), cost[name], share[name]) for name in cost]


def choose(kinds: Sequence[Kind], wanted: int) -> list[int]:
    """A rank of at least 1 for each kind, their cost next to ``wanted``."""
    lora = wanted / sum(kind.share for kind in kinds)
    exact = [lora * kind.share / kind.cost for kind in kinds]
    wide = (-1, 0, 1, 2) if len(kinds) <= 6 else (0, 1)
    best: tuple[float, float, list[int]] | None = None
    for steps in itertools.product(wide, repeat=len(kinds)):
        found = [max(int(rank) + step, 1) for rank, step in zip(exact, steps, strict=True)]
        total = sum(kind.cost * rank for kind, rank in zip(kinds, found, strict=True))
        off = abs(total - wanted) / max(wanted, 1)
        moved = sum(abs(rank - at) / max(at, 1) for rank, at in zip(found, exact, strict=True))
        one = (0.0 if off <= CLOSE else off, moved, found)
        if best is None or one[:2] < best[:2]:
            best = one
    assert best is not None
    return best[2]
