"""Edges by a rule, beside those that attention keeps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphformer.attention.candidates import Rule
from graphformer.attention.candidates import resolve as resolve_rule
from graphformer.attention.pairs import Block, Listed
from graphformer.attention.slot import children
from graphformer.attention.sparsifiers.base import Sparsifier, check
from graphformer.errors import number, strict_flags, whole


class ExtraEdges(nn.Module, Sparsifier, name="extra_edges"):
    r"""Edges that stay whatever their weight is, with a trained or given weight added.

    .. math::
        E = \mathrm{keep}(w) \cup R, \qquad
        w_{ij} \mapsto \mathrm{refine}(w)_{ij} + c_h \,[\,(j \to i) \in R\,]

    R are the candidates that a rule of distances allows: ``Window(3)`` with a causal layer gives
    every token its two predecessors and itself. They are edges of the
    graph like the others, so they are returned, drawn and saved with it.

    Args:
        rule: a rule of :mod:`graphformer.attention.candidates` that looks at distances, its name or
            its plain form. Pairs that are no candidates stay out.
        weight: where each c_h starts, or what it is.
        keep: the sparsifier of the other edges; None: all candidates stay.
        trained: whether c is trained, one number a head.
        num_heads: H; None: those of the layer.

    Raises:
        ValueError: a rule that reads queries or absolute places; a sparsifier with one behind.
    """

    reweighs = adds = True
    part_slots: ClassVar = {"rule": "candidates"}
    weight: Tensor

    @strict_flags
    def __init__(
        self,
        rule: Any,
        weight: float = 0.0,
        keep: Any = None,
        *,
        trained: bool = True,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        resolved, self.judge = resolve_rule(rule), check(keep)
        if not isinstance(resolved, Rule):
            raise TypeError(
                f"rule must be a rule of positions, such as Window(3), got a "
                f"{type(resolved).__name__}: lists of edges belong into candidates"
            )
        self.rule: Rule = resolved
        if asking := [one for one in _all(self.rule) if _asks(one)]:
            raise ValueError(
                f"rule={asking[0].name!r} decides by queries and keys, and extra edges are given "
                "by distances: take such as Window"
            )
        if self.rule.absolute:
            raise ValueError(
                f"rule={self.rule.name!r} counts places from the beginning of a row, where padding "
                "and other texts of a pack may stand: take one of distances, such as Window, or "
                "give it as candidates"
            )
        if self.judge is not None and self.judge.then is not None:
            raise ValueError(
                f"keep={self.judge.name!r} has a sparsifier behind it, which would cut the extra "
                "edges: leave its then out"
            )
        self.__dict__["_given"] |= {"rule": self.rule, "keep": self.judge}
        self.initial_weight = float(number("weight", weight))
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        start = torch.full((whole("num_heads", num_heads),), self.initial_weight)
        if trained:
            self.weight = nn.Parameter(start)
        else:
            self.register_buffer("weight", start)

    def reset_own_parameters(self) -> None:
        nn.init.constant_(self.weight, self.initial_weight)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        if self.judge is None:
            return torch.ones_like(weights, dtype=torch.bool)
        return self.judge.keep(weights, pairs) | self.rule.allow(pairs)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        if self.judge is not None:
            weights = self.judge.refine(weights, pairs)
        added = pairs.of_head(self.weight).to(weights.dtype)
        return weights + added * self.rule.allow(pairs).to(weights.dtype)

    def extra_repr(self) -> str:
        return f"rule={self.rule}, keep={self.judge}, weight={self.initial_weight}"


def _all(rule: Rule) -> list[Rule]:
    return [rule, *(one for part in children(rule) if isinstance(part, Rule) for one in _all(part))]


def _asks(rule: Rule) -> bool:
    """Whether it looks at more than positions; what joins rules is as they are."""
    return type(rule).of_call is not Rule.of_call and not list(children(rule))
