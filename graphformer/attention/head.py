"""A head: the slots together, as one value."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphformer.attention import sparsifiers
from graphformer.attention.candidates import resolve as resolve_candidates
from graphformer.attention.features import Features
from graphformer.attention.normalizers import Normalizer, Softmax
from graphformer.attention.operators import Operator
from graphformer.attention.scores import ScaledDotProduct, Score
from graphformer.attention.slot import check_slot, own_copy, spec
from graphformer.attention.updates import Update
from graphformer.errors import did_you_mean, number


@dataclass(frozen=True, eq=False)
class Head:
    """What the heads of a layer do, slot by slot; a name or a plain form stands for its value.

    >>> gf.Head(score="differential", sparsify=gf.Threshold(0.1), operator="gin")

    Attributes:
        candidates: which pairs may be scored; None: all that the layer's masks and edges allow.
        score, normalize, sparsify: logits; logits to weights; weights to kept edges (None: all).
        features: what a node sends, ``"slice"``, ``"projection"`` or ``"value_residual"``.
        operator: what runs on the graph, ``"gin"``, ``"pna"``, ``"sum"``; None: the layer's own.
        update: what becomes of the heads' outputs, ``"concat"`` or ``"output_map"``.

    Raises:
        ValueError: an unknown name. TypeError: a value that is none of its slot.
    """

    # Names and plain forms become values, so the fields hold what type checkers cannot know.
    candidates: Any = None
    score: Any = dataclasses.field(default_factory=ScaledDotProduct)
    normalize: Any = dataclasses.field(default_factory=Softmax)
    sparsify: Any = None
    features: Any = None
    operator: Any = None
    update: Any = None

    def __post_init__(self) -> None:
        if self.candidates is not None:
            self._set("candidates", resolve_candidates(self.candidates))
        self._set("sparsify", sparsifiers.check(self.sparsify))
        for slot, base in BASES.items():
            value = getattr(self, slot)
            if value is not None:
                self._set(slot, check_slot(slot, base, value))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def items(self) -> dict[str, Any]:
        """The slots that hold a value."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def spec(self) -> dict[str, Any]:
        """The plain form, for config files: a dictionary of the slots that hold a value.

        Raises:
            ValueError: a value that has none; see :func:`graphformer.attention.slot.spec`.
        """
        return {name: spec(value) for name, value in self.items().items()}

    @classmethod
    def from_spec(cls, plain: Mapping[str, Any]) -> Head:
        """The head of a plain form.

        Raises:
            ValueError: an unknown slot or name.
        """
        known = [one.name for one in dataclasses.fields(cls)]
        for name in plain:
            if name not in known:
                raise ValueError(
                    f"a head has no slot {name!r}{did_you_mean(name, known)}; its slots are "
                    f"{', '.join(known)}"
                )
        return cls(**plain)

    @classmethod
    def read(cls, value: Head | Mapping[str, Any]) -> Head:
        """From what a user or a settings file gives."""
        if isinstance(value, Head):
            return value
        if isinstance(value, Mapping):
            return cls.from_spec(value)
        raise TypeError(f"head must be a gf.Head or its dictionary, got {type(value).__name__}")

    def with_defaults(
        self, *, operator: Any = None, features: Any = None, update: Any = None
    ) -> Head:
        """Values for the slots that hold none."""
        slots = {"operator": operator, "features": features, "update": update}
        missing = {name: value for name, value in slots.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing) if missing else self

    def for_layer(self, sizes: Mapping[str, Any]) -> Head:
        """The head of one layer: sizes that its values leave out are the layer's."""
        made = {name: value.for_layer(sizes) for name, value in self.items().items()}
        return dataclasses.replace(self, **made)

    def in_first_layer(self) -> Head:
        """The head of a model's first layer, where none was before it."""
        if self.features is None:
            return self
        return dataclasses.replace(self, features=self.features.in_first_layer())

    def copied(self) -> Head:
        """The same, with parameters of its own."""
        return dataclasses.replace(
            self, **{name: own_copy(value) for name, value in self.items().items()}
        )

    def __str__(self) -> str:
        return f"Head({', '.join(f'{name}={value}' for name, value in self.items().items())})"


BASES: dict[str, Any] = {
    "score": Score,
    "normalize": Normalizer,
    "features": Features,
    "operator": Operator,
    "update": Update,
}


@dataclass(frozen=True)
class Compute:
    """How heads are computed; never changes the answer.

    Attributes:
        executor: ``"flash"``, ``"linear"``, ``"stream"``, ``"edges"``, ``"dense"``, or ``"auto"``.
        backend: ``"torch"``, ``"pyg"``, ``"dgl"``, ``"torch_sparse"``, or ``"auto"`` (torch). One
            that is named aggregates edges, which are then built.
    """

    executor: str = "auto"
    backend: str = "auto"

    def __post_init__(self) -> None:
        from graphformer import backends
        from graphformer.attention.build import EDGELESS, KNOWN

        # an unknown or missing one is reported here, not in the first step
        backends.get(self.backend)
        if self.executor not in KNOWN:
            raise ValueError(f"unknown executor {self.executor!r}; known: {', '.join(KNOWN)}")
        if self.executor in EDGELESS and self.backend != "auto":
            raise ValueError(
                f"executor={self.executor!r} builds no edges, and backend={self.backend!r} "
                "aggregates edges: give one of them"
            )


def refuse_first_alone(heads: Sequence[Head | None], initial_residual: float | None) -> None:
    """ValueError where later layers read nothing of the first one, and a setting asks for it.

    Args:
        heads: of a model's layers. initial_residual: the model's.
    """
    reads = [
        one is not None and one.features is not None and one.features.reads_first for one in heads
    ]
    if any(reads[:1]) and not any(reads[1:]):
        raise ValueError(
            f"features={heads[0].features.name!r} read what the first layer sends, and no later "  # type: ignore[union-attr]
            "layer has them: give them to a layer after the first, or leave them out"
        )
    if initial_residual is not None:
        number("initial_residual", initial_residual, hint="; None leaves it out")
        if len(heads) < 2:
            raise ValueError(
                f"initial_residual={initial_residual} is of layers after the first, and there is "
                "one layer: leave it out"
            )


def compute_of(compute: Compute | None, executor: str, backend: str) -> Compute:
    """One of the two ways to say how heads are computed."""
    if compute is None:
        return Compute(executor, backend)
    if not isinstance(compute, Compute):
        raise TypeError(f"compute must be a gf.Compute, got {type(compute).__name__}")
    for name, value in (("executor", executor), ("backend", backend)):
        if value != "auto":
            raise ValueError(f"compute and {name}={value!r} are given: say it in one place")
    return compute


def refuse_arguments(owner: type, head: Any, **given: Any) -> None:
    """ValueError where a head brings an operator and a layer's arguments describe another one."""
    if head is None or Head.read(head).operator is None:
        return
    usual = inspect.signature(owner).parameters
    for name, value in given.items():
        if value != usual[name].default:
            raise ValueError(
                f"{name}={value!r} is of {owner.__name__}'s own operator, and the head brings "
                f"{Head.read(head).operator.name!r}: give it to the operator in the head"
            )


def head_of(
    head: Head | Mapping[str, Any] | None, given: Mapping[str, Any], usual: Mapping[str, Any]
) -> Head:
    """A layer's head: the one that was given, or made of the layer's arguments for single slots.

    Args:
        given: the arguments by slot. usual: their defaults.

    Raises:
        ValueError: a head beside arguments that say something about its slots.
    """
    if head is None:
        return Head(**{**given})
    refuse_beside({name: (value, usual[name]) for name, value in given.items()})
    return Head.read(head)


def refuse_beside(said: Mapping[str, tuple[Any, Any]]) -> None:
    """ValueError for an argument that says something of a slot, beside a head.

    Args:
        said: by argument what was given, and its default.
    """
    for name, (value, default) in said.items():
        if value is not default and value != default:
            raise ValueError(
                f"head and {name}={value!r} are given: say it in one place, in the head"
            )
