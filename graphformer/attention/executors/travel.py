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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.slot import Slot
from graphformer.uncompiled import exporting

_classes: list[type[Slot]] = []
_values: dict[int, Callable[[], Any]] = {}
_numbers = itertools.count()


class Packer:
    """Texts of values, and the tensors that belong to them; for code that is being traced.

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
        if isinstance(value, (tuple, list)):
            return f'{{"()": [{", ".join([self.text(one) for one in value])}]}}'
        if value is None or not isinstance(value, Slot):
            return constant(value)
        if not is_ours(type(value)):
            self.drawing = True
        whole = text_of(value, id(value), len(self.tensors))
        if whole:
            self.tensors += tensors_of(value)
            return whole
        # It is made inside the compiled function: a dataclass can be written down part by part.
        number, names = layout(type(value))
        if names is None:
            return self._own(value)
        inner = [f'"{name}": {self.text(getattr(value, name))}' for name in names]
        return f'{{"class": {number}, "with": {{{", ".join(inner)}}}}}'

    def _own(self, value: Any) -> str:
        number = place(value, id(value))
        self.strange = self.strange or number < 0
        self.drawing = True
        return f'{{"own": {number}}}'


def constant(value: Any) -> str:
    """A number or a text as JSON has it; made of what a compiler can trace."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a value, in the order in which its text numbers them."""
    if isinstance(value, nn.Module):
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for one in value for tensor in tensors_of(one)]
    if not isinstance(value, Slot):
        return []
    names = layout(type(value))[1] or ()
    return [tensor for name in names for tensor in tensors_of(getattr(value, name))]


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
def text_of(value: Slot, identity: int, first: int) -> str:
    """A value as text, its tensors numbered from ``first``; empty where it has none.

    ``identity`` is ``id(value)`` as compiled code sees it, which guards the text. It is another one
    where the value is made by the compiled code itself: torch then hands over an empty imitation.
    """
    if id(value) != identity or exporting():
        return ""
    try:
        return json.dumps(_written(value, itertools.count(first)))
    except TypeError:
        return ""


def _written(value: Any, numbers: Iterator[int]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return {"#": next(numbers)}
    if isinstance(value, (tuple, list)):
        return {"()": [_written(one, numbers) for one in value]}
    number, names = layout(type(value))
    if isinstance(value, nn.Module) and isinstance(value, Slot):
        held = [next(numbers) for _ in tensors_of(value)]
        # Its tensors are those that it holds: an inner module's are among them.
        inner = {name: _written(one, itertools.count()) for name, one in value.arguments().items()}
        if any(isinstance(one, Tensor) for one in value.arguments().values()):
            raise TypeError(f"a tensor is an argument of {type(value).__name__}")
        return {"class": number, "with": inner, "held": held, "training": value.training}
    if names is None:
        raise TypeError(f"{type(value).__name__} has no text")
    inner = {name: _written(getattr(value, name), numbers) for name in names}
    return {"class": number, "with": inner}


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
