"""How slot values travel through an operator of ``torch.compile``, which takes tensors, numbers and
text.

A value becomes text, with numbers in the places of its tensors. A frozen dataclass is written down
while the compiler traces, so it may be made inside the compiled function; a module is made anew
from its arguments, with its parameters among the tensors, so gradients go to them. A value of a
class that is neither travels as its number here, which does not keep it alive: whoever runs the
compiled code holds it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.slot import Slot

_classes: list[type[Slot]] = []
_values: dict[int, Callable[[], Any]] = {}
_numbers = itertools.count()


class Packer:
    """Texts of values, and the tensors that belong to them.

    Attributes:
        tensors: in the order of their numbers.
        strange: whether a value could not be written down.
        drawing: whether one may draw random numbers: a class of a user's own.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.strange = False
        self.drawing = False

    def text(self, value: Any) -> str:
        """The value as text."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
            return f'{{"#": {len(self.tensors) - 1}}}'
        if value is None or isinstance(value, (bool, int, float, str)):
            return constant(value)
        if isinstance(value, (tuple, list)):
            return f'{{"()": [{", ".join([self.text(one) for one in value])}]}}'
        if isinstance(value, nn.Module) and isinstance(value, Slot):
            return self._module(value)
        number, names = layout(type(value))
        if names is None:
            return self._own(value)
        if not is_ours(type(value)):
            self.drawing = True
        inner = [f'"{name}": {self.text(getattr(value, name))}' for name in names]
        return f'{{"class": {number}, "with": {{{", ".join(inner)}}}}}'

    def _module(self, value: Any) -> str:
        held = [*value.parameters(), *value.buffers()]
        text = text_of_module(value, id(value), len(self.tensors), len(held))
        if not text:
            return self._own(value)
        if not is_ours(type(value)):
            self.drawing = True
        self.tensors += held
        return text

    def _own(self, value: Any) -> str:
        number = place(value, id(value))
        self.strange = self.strange or number < 0
        self.drawing = True
        return f'{{"own": {number}}}'


@torch.compiler.assume_constant_result
def constant(value: Any) -> str:
    return json.dumps(value)


@torch.compiler.assume_constant_result
def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "graphformer"


@torch.compiler.assume_constant_result
def layout(cls: type) -> tuple[int, tuple[str, ...] | None]:
    """A class's number, and the names of its arguments; None where they are not known."""
    if not issubclass(cls, Slot):
        return -1, None
    if cls not in _classes:
        _classes.append(cls)
    if dataclasses.is_dataclass(cls):
        return _classes.index(cls), tuple(one.name for one in dataclasses.fields(cls) if one.init)
    return _classes.index(cls), None


@torch.compiler.assume_constant_result
def text_of_module(value: Any, identity: int, first: int, count: int) -> str:
    """A module's class and arguments; empty where they have no text, or the compiled code itself
    made it.
    """
    if id(value) != identity or (count and exporting()):
        return ""
    packer = Packer()
    inner = [f'"{name}": {packer.text(one)}' for name, one in value.arguments().items()]
    # Its tensors are those that it holds: an inner module's are among them, another one has no
    # place.
    if packer.strange or len(packer.tensors) > count:
        return ""
    number, _ = layout(type(value))
    held = list(range(first, first + count))
    training = json.dumps(value.training)
    arguments = ", ".join(inner)
    return f'{{"class": {number}, "with": {{{arguments}}}, "held": {held}, "training": {training}}}'


@torch.compiler.assume_constant_result
def place(value: Any, identity: int) -> int:
    """The value's number, or -1 where an operator cannot refer to it.

    ``identity`` is ``id(value)`` as compiled code sees it. It is another one where the value is
    made by the compiled code itself: torch then hands over an empty imitation. Nor can an operator
    pass gradients to what is not among its tensors, and an exported program finds another list
    where it is loaded.
    """
    if id(value) != identity or exporting():
        return -1
    held = (
        value.parameters()
        if isinstance(value, nn.Module)
        else getattr(value, "__dict__", {}).values()
    )
    if any(isinstance(part, Tensor) and part.requires_grad for part in held):
        return -1
    for number, known in list(_values.items()):
        if known() is value:
            return number
    number = next(_numbers)
    try:
        _values[number] = weakref.ref(value, lambda _: _values.pop(number, None))
    except TypeError:  # what has no place for weak references
        return -1
    return number


def exporting() -> bool:
    """Whether ``torch.export`` traces; torch 2.6 cannot tell it from compiling."""
    return getattr(torch.compiler, "is_exporting", bool)()


def unpack(text: str, tensors: Sequence[Tensor]) -> Any:
    """The value of a :class:`Packer`'s text."""
    return _rebuilt(json.loads(text), tensors)


def _rebuilt(plain: Any, tensors: Sequence[Tensor]) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "#" in plain:
        return tensors[plain["#"]]
    if "()" in plain:
        return tuple(_rebuilt(one, tensors) for one in plain["()"])
    if "own" in plain:
        if plain["own"] not in _values:
            raise RuntimeError(
                "compiled code refers to a rule, normalizer or sparsifier that is gone: keep it as "
                "long as the compiled layer"
            )
        return _values[plain["own"]]()
    arguments = {name: _rebuilt(one, tensors) for name, one in plain["with"].items()}
    value: Any = _classes[plain["class"]](**arguments)
    if isinstance(value, nn.Module):
        _replace_tensors(value, [tensors[number] for number in plain["held"]])
        value.train(plain["training"])
    return value


def _replace_tensors(module: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Other tensors in the places of parameters and buffers, so that gradients go to them."""
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name, tensor in zip(names, tensors, strict=True):
        path, _, leaf = name.rpartition(".")
        owner: Any = module.get_submodule(path) if path else module
        (owner._parameters if leaf in owner._parameters else owner._buffers).pop(leaf)
        owner.__dict__[leaf] = tensor
