"""Which linear layers of a model an adapter takes, of which rank, and which relations each stack of
layers can have: all of it decided before anything is changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from torch import nn

from graphformer.adapters.bottlenecks.linears import Linear
from graphformer.adapters.bottlenecks.runs import Stack, embeddings
from graphformer.adapters.choosing import only, refuse_copies, require_matches
from graphformer.attention.relations import Chain, Relation, Repeats
from graphformer.frozen import probe
from graphformer.frozen.probe import UnsupportedModel

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig

RECURRENCE = (Chain(3), Repeats(1), Repeats(1, "mean"), Repeats(2), Repeats(3))
"""The relations of an adapter of a causal model that was told none."""


@dataclass(frozen=True, eq=False)
class Group:
    """Linear layers of one input, which share a bottleneck. The first holds what they share."""

    members: tuple[Linear, ...]
    rank: int
    steps: int

    @property
    def name(self) -> str:
        """What it is in every layer."""
        return self.members[0].within

    def size(self, rank: int) -> int:
        """Its trainable parameters at a rank."""
        first = self.members[0]
        ways = 1 if first.stack.causal else 2
        outs = sum(one.out_features for one in self.members)
        return rank * (first.in_features + outs + ways * self.steps)


@dataclass(frozen=True, eq=False)
class Plan:
    """What an adapter does to a model.

    Attributes:
        excluded: linear layers that the config leaves out by ``exclude_modules``.
        recurrence: relations after each layer that has bottlenecks, by stack.
    """

    groups: tuple[Group, ...]
    excluded: frozenset[str] = frozenset()
    recurrence: dict[Stack, tuple[Relation, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Group, Linear] | None:
        """The group that a linear layer is in."""
        return self.by_name.get(name)

    def __post_init__(self) -> None:
        found = {one.name: (group, one) for group in self.groups for one in group.members}
        object.__setattr__(self, "by_name", found)

    by_name: dict[str, tuple[Group, Linear]] = field(init=False, default_factory=dict)


def make(config: SparseGINConfig, model: nn.Module, linears: Sequence[Linear]) -> Plan:
    """Decide; fills the config's ``target_modules`` and ``relations`` where they were left out.

    Raises:
        ValueError: a name, a number or a rank that matches nothing of this model.
        UnsupportedModel: relations that it cannot have.
    """
    if config.target_modules is None or config.target_modules == "all-linear":
        config.target_modules = sorted({one.name.rpartition(".")[2] for one in linears})
    names = {one.name: one for one in linears}
    require_matches(config, model, list(names), "linear layer in a list of layers")
    matching = only(
        config, "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"
    )
    chosen = []
    excluded: set[str] = set()
    for name, one in names.items():
        match = check_target_module_exists(matching, name)
        if isinstance(match, _ExcludedModule):
            excluded.add(name)
        elif match:
            chosen.append(one)
    if not chosen:
        raise ValueError(
            f"target_modules={config.target_modules}, exclude_modules={config.exclude_modules} and "
            f"layers_to_transform={config.layers_to_transform} leave no linear layer of this "
            f"model, which has {_short(linears)}"
        )
    refuse_copies(config, model, [(one.path, one.module) for one in chosen])
    relations = _relations(config, model, chosen)
    chain = next((one for one in relations if isinstance(one, Chain)), None)
    after = tuple(one for one in relations if not isinstance(one, Chain))
    together: dict[tuple[str, int], list[Linear]] = {}
    for one in chosen:
        together.setdefault((one.layer, one.input), []).append(one)
    groups = []
    for members in together.values():
        steps = chain.k if chain is not None and members[0].own_tokens else 0
        groups.append(Group(tuple(members), _rank(config, members), steps))
    for pattern in config.rank_pattern or ():
        if not any(_matches(pattern, one) for one in chosen):
            raise ValueError(
                f"rank_pattern names {pattern!r}, which is no linear layer of this adapter; it has "
                f"{_short(chosen)}"
            )
    stacks = dict.fromkeys(one.stack for one in chosen)
    recurrence = {stack: after for stack in stacks if stack.causal and after}
    return Plan(tuple(groups), frozenset(excluded), recurrence)


def _relations(
    config: SparseGINConfig, model: nn.Module, chosen: Sequence[Linear]
) -> tuple[Relation, ...]:
    """Those of the config, or the model's."""
    stacks = list(dict.fromkeys(one.stack for one in chosen))
    texts = [stack for stack in stacks if stack.ids is not None]
    causal = [stack for stack in texts if stack.causal]
    title = probe.title(model)
    if config.relations is None:
        made = RECURRENCE if causal else RECURRENCE[:1] if texts else ()
        config.set_relations(made)
    relations = config.checked_relations()
    if relations and not texts:
        raise UnsupportedModel(
            f"relations={list(relations)} are between the tokens of a text, and {title} reads "
            f"{probe.main_input(model)}: give relations=[]"
        )
    after = [one for one in relations if not isinstance(one, Chain)]
    if after and not causal:
        raise UnsupportedModel(
            f"relation {after[0]} looks for what came before, and every token of {title} sees "
            "later ones: give relations=[gf.Chain(3)], which there runs both ways"
        )
    if len(after) < len(relations) and not any(one.own_tokens for one in chosen):
        raise UnsupportedModel(
            f"{relations[0]} needs a row for each token, and no chosen linear layer of {title} has "
            "such an input: give relations without a chain"
        )
    if after:
        wide = embeddings(model).weight.shape[1]
        for stack in causal:
            if stack.width != wide:
                raise UnsupportedModel(
                    f"relation {after[0]} sends token embeddings, {wide} numbers wide, and the "
                    f"stream of {stack.name} in {title} is {stack.width} wide: give "
                    "relations=[gf.Chain(3)]"
                )
    return relations


def _rank(config: SparseGINConfig, members: Sequence[Linear]) -> int:
    """Of a bottleneck: what patterns say of its linear layers, which must agree."""
    said = {
        rank: (pattern, one.within)
        for pattern, rank in (config.rank_pattern or {}).items()
        for one in members
        if _matches(pattern, one)
    }
    if len(said) > 1:
        (a, (one, _)), (b, (other, _)) = list(said.items())[:2]
        names = ", ".join(member.within for member in members)
        raise ValueError(
            f"rank_pattern gives {one!r} rank {a} and {other!r} rank {b}, and {names} of "
            f"{members[0].layer} share a bottleneck: give one rank for them"
        )
    return next(iter(said), config.rank)


def _matches(pattern: str, linear: Linear) -> bool:
    """As PEFT's rank_pattern does."""
    return re.match(rf"(.*\.)?({pattern})$", linear.name) is not None


def _short(linears: Sequence[Linear]) -> str:
    return ", ".join(dict.fromkeys(one.within for one in linears))
