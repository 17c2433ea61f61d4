"""Slot values: named, copied and written down in one way.

A *slot* is a place in a head (candidates, score, normalize, sparsify, features, operator, update).
What stands in it is a small value: a frozen dataclass, or a module where it has parameters.
``name=`` in the class statement registers it, and from that one name come

- its plain form, for config files: :func:`spec` and :func:`from_spec` are inverse,
- a copy for each layer, with the sizes of that layer filled in: :meth:`Slot.for_layer`,
- its way through ``torch.compile`` (:mod:`graphformer.attention.executors.travel`).

>>> class Cauchy(Normalizer, name="cauchy"):
...     def weights(self, scores, pairs):
...         return 1 / (1 + scores.square())
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from graphformer.errors import did_you_mean

Own = TypeVar("Own", bound="Slot")

KINDS: dict[str, dict[str, type[Slot]]] = {}
"""The registered classes by slot and name."""


FORMULAS = {"normalize": "weights", "sparsify": "keep"}
"""The one formula of slots that once had two, for rows and for edges."""
REWRITE = (
    "{} has the methods rows and edges, which became one formula on pairs: write {}(self, values, "
    "pairs) in their place (docs/your-own-slot.md)"
)


class Slot:
    """Base of all slot values.

    Attributes:
        slot: which slot it stands in, ``"normalize"``.
        name: its own name there, ``"softmax"``; None for a class that was not given one. Such a
            value can be used, and has no plain form.
        said_of: what a class says of its formula, by the methods that write it. A subclass that
            writes one anew says it again where it still holds; else the base's word counts, by
            which no fast path is taken.
        part_slots: the slots of values inside that are of another one, by argument.
    """

    slot: ClassVar[str] = ""
    name: ClassVar[str | None] = None
    said_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    told_by: ClassVar[Mapping[str, str]] = {}
    part_slots: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(
        cls, *, slot: str | None = None, name: str | None = None, **more: Any
    ) -> None:
        super().__init_subclass__(**more)
        if slot is not None:
            cls.slot = slot
            KINDS.setdefault(slot, {})
        cls.name = name
        base = next(one for one in cls.__mro__ if "slot" in one.__dict__)
        written = set() if cls is base else _written(cls)
        for method in written & set(cls.said_of):
            for one in set(cls.said_of[method]) - set(cls.__dict__):
                setattr(cls, one, base.__dict__[one])
        for method in written & set(cls.told_by):
            if cls.told_by[method] not in cls.__dict__:
                setattr(cls, cls.told_by[method], True)
        former = {"rows", "edges"} & set(cls.__dict__)
        if former and cls.slot in FORMULAS and FORMULAS[cls.slot] not in cls.__dict__:
            raise TypeError(REWRITE.format(cls.__qualname__, FORMULAS[cls.slot]))
        if name is not None:
            known = KINDS[cls.slot]
            before = known.get(name)
            if before is not None and before.__qualname__ != cls.__qualname__:
                raise ValueError(
                    f"{cls.slot} {name!r} is {before.__module__}.{before.__qualname__} already; "
                    f"give {cls.__qualname__} another name"
                )
            known[name] = cls
        if issubclass(cls, nn.Module) and "__init__" in cls.__dict__:
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    def arguments(self) -> dict[str, Any]:
        """What the constructor was given, defaults filled in."""
        if dataclasses.is_dataclass(self):
            return {
                one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.init
            }
        return dict(self.__dict__.get("_given", {}))

    def for_layer(self: Own, sizes: Mapping[str, Any]) -> Own:
        """The value for one layer: sizes that were left out (None) are the layer's.

        Args:
            sizes: ``num_heads``, ``num_kv_heads``, ``dim`` (of a head), ``hidden_size``,
                ``layer_idx``. Only those count that the constructor has an argument for.
        """
        given = self.arguments()
        own = own_state(self)
        missing = {
            name: sizes[name]
            for name in given
            if given[name] is None and sizes.get(name) is not None
        }
        inner = {name: _for_layer(value, sizes) for name, value in given.items()}
        changed = {name: value for name, value in inner.items() if value is not given[name]}
        if own:  # it has its sizes; made anew, it would lose what it has learned
            missing = {}
        if not (missing or changed):
            return self
        made = type(self)(**{**given, **missing, **changed})
        if own and isinstance(made, nn.Module):
            made.load_state_dict(own, strict=False)
        return made

    def reset_parameters(self) -> None:
        """Parameters as the constructor left them (linear maps drawn anew)."""
        if isinstance(self, nn.Module):
            for module in self.children():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        """The same of those that are not a child's."""


def _written(cls: type) -> set[str]:
    """What a class writes, itself or by a base that is no slot value and new to it."""
    slots = [one for one in cls.__bases__ if issubclass(one, Slot)]
    new = [one for one in cls.__mro__ if not any(issubclass(base, one) for base in slots)]
    return {name for one in new for name in one.__dict__}


def _remembering(init: Any) -> Any:
    """A constructor that keeps its arguments in ``_given``; that of a subclass comes first."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_given" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            _, *names = signature.parameters
            given: dict[str, Any] = {}
            for name in names:
                if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                    given |= bound.arguments[name]
                elif signature.parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL:
                    given[name] = bound.arguments[name]
            self.__dict__["_given"] = given
        init(self, *args, **kwargs)

    return __init__


def _for_layer(value: Any, sizes: Mapping[str, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        made = [_for_layer(one, sizes) for one in value]
        same = all(one is other for one, other in zip(made, value, strict=True))
        return value if same else tuple(made)
    return value.for_layer(sizes) if isinstance(value, Slot) else value


def own_state(value: Slot) -> dict[str, Any]:
    """Parameters and buffers that are not those of a slot value inside."""
    if not isinstance(value, nn.Module):
        return {}
    inside = {
        id(tensor)
        for one in children(value)
        if isinstance(one, nn.Module)
        for tensor in one.state_dict(keep_vars=True).values()
    }
    held = value.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in held.items() if id(tensor) not in inside}


def own_copy(value: Any) -> Any:
    """The value, or a copy of it where it has parameters or buffers, so that layers share none."""
    return copy.deepcopy(value) if has_state(value) else value


def has_state(value: Any) -> bool:
    """Whether a module is in it."""
    return isinstance(value, nn.Module) or any(has_state(one) for one in children(value))


def trainable(value: Any) -> bool:
    """Whether it has parameters, which then need gradients."""
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters())
    return any(trainable(one) for one in children(value))


def children(value: Any) -> Iterator[Slot]:
    """The slot values that it holds."""
    if not isinstance(value, Slot):
        return
    for one in value.arguments().values():
        for part in one if isinstance(one, (tuple, list)) else (one,):
            if isinstance(part, Slot):
                yield part


def register_parts(owner: nn.Module, **values: Any) -> None:
    """Make the modules inside combined values, such as ``Reweigh(...) & TopK(3)``, parts of a
    layer: it then trains, moves and saves their parameters, under the name ``{slot}_parts``.
    """
    for name, value in values.items():
        if isinstance(value, Slot) and not isinstance(value, nn.Module):
            found = list(_modules_in(value))
            if found:
                owner.add_module(f"{name}_parts", Parts(found))


class Parts(nn.ModuleList):
    """Modules of a combined value."""

    def reset_parameters(self) -> None:
        for one in self:
            if hasattr(one, "reset_parameters"):
                one.reset_parameters()  # type: ignore[operator]


def _modules_in(value: Slot) -> Iterator[nn.Module]:
    for one in children(value):
        if isinstance(one, nn.Module):
            yield one
        else:
            yield from _modules_in(one)


# ---------------------------------------------------------------------- the plain form


def spec(value: Slot) -> dict[str, Any]:
    """The plain form: ``{"name": "threshold", "tau": 0.1}``. Arguments that have their default are
    left out.

    Raises:
        ValueError: its class has no name, or an argument no plain form (a tensor, a function).
    """
    if value.name is None:
        raise ValueError(
            f"a {type(value).__qualname__} has no plain form: register its class by a name, "
            f"class {type(value).__qualname__}(..., name={_suggested(type(value))!r})"
        )
    defaults = {
        name: one.default for name, one in inspect.signature(type(value)).parameters.items()
    }
    given = value.arguments()
    told = {
        name: _plain_argument(value, name, one)
        for name, one in given.items()
        if name not in defaults or not _equal(one, defaults[name])
    }
    return {"name": value.name, **told}


def from_spec(slot: str, plain: Any, **sizes: Any) -> Any:
    """The slot value of a plain form: its name, or a dictionary of name and arguments.

    >>> keep = {"name": "top_k", "k": 3}
    >>> from_spec("sparsify", {"name": "reweigh", "curve": "binary", "tau": 0.0, "keep": keep})

    Args:
        slot: which slot, see :data:`KINDS`.
        sizes: as in :meth:`Slot.for_layer`, for arguments that the dictionary leaves out.

    Raises:
        ValueError: an unknown name, or arguments that do not describe a value.
    """
    if isinstance(plain, Slot):
        return plain
    known = KINDS[slot]
    kind = slot_noun(slot)
    if isinstance(plain, str):
        plain = {"name": plain}
    if not isinstance(plain, Mapping):
        raise TypeError(f"{slot} must be a name or a dictionary with one, got {plain!r}")
    arguments = dict(plain)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"a {kind}'s dictionary needs a name, one of {', '.join(known)}; got {dict(plain)}"
        )
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}; known: {', '.join(known)}{did_you_mean(name, known)}"
        )
    parameters = inspect.signature(known[name]).parameters
    for key, value in arguments.items():
        arguments[key] = _from_plain(known[name].part_slots.get(key, slot), value, sizes)
    arguments |= {key: sizes[key] for key in sizes if key in parameters and key not in arguments}
    try:
        return known[name](**arguments)
    except TypeError as error:
        raise ValueError(f"{dict(plain)} does not describe a {kind}: {error}") from None


def slot_noun(slot: str) -> str:
    """What messages call a value of the slot."""
    return {
        "sparsify": "sparsifier",
        "normalize": "normalizer",
        "candidates": "rule of candidates",
        "feed_forward": "feed-forward",
    }.get(slot, slot)


def _from_plain(slot: str, value: Any, sizes: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping) and "name" in value:
        return from_spec(slot, value, **sizes)
    if isinstance(value, list):
        return tuple(_from_plain(slot, one, sizes) for one in value)
    return value


def _suggested(cls: type) -> str:
    letters = [f"_{one.lower()}" if one.isupper() else one for one in cls.__name__]
    return "".join(letters).lstrip("_")


def _equal(value: Any, default: Any) -> bool:
    if isinstance(value, (Tensor, Slot)) or isinstance(default, (Tensor, Slot)):
        return value is default
    return type(value) is type(default) and bool(value == default)


def _plain_argument(owner: Slot, name: str, value: Any) -> Any:
    if isinstance(value, Slot):
        return spec(value)
    if isinstance(value, (tuple, list)):
        return [_plain_argument(owner, name, one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain_argument(owner, name, one) for key, one in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        return value.item()
    what = (
        f"a tensor {list(value.shape)}"
        if isinstance(value, Tensor)
        else f"a {type(value).__name__}"
    )
    raise ValueError(
        f"{name} of {type(owner).__qualname__} is {what}, which has no plain form; give a number, "
        "a text or another slot value"
    )


def check_slot(slot: str, base: type[Slot], value: Any, hint: str = "") -> Any:
    """A slot value from what a user may pass: a value, a name, or a dictionary.

    Raises:
        TypeError: something else. ValueError: an unknown name.
    """
    if isinstance(value, base):
        return value
    if isinstance(value, (str, Mapping)):
        return from_spec(slot, value)
    if slot in FORMULAS and hasattr(value, "rows") and hasattr(value, "edges"):
        raise TypeError(REWRITE.format(type(value).__name__, FORMULAS[slot]))
    raise TypeError(
        f"{slot} must be {hint or f'a name or a {base.__name__}'}, got {type(value).__name__}"
    )
