"""What one call of an adapted model leaves from hook to hook.

Nothing of it is kept on a module: several threads may run one model, and autograd runs a
checkpointed layer again in a thread of its own. It is kept in context variables, whose values are
replaced and never changed, so that a copied context shares nothing either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphformer.graph import AttentionGraph

BASE = "__base__"
"""PEFT's name for "no adapter" in ``adapter_names``."""


@dataclass(eq=False)
class Call:
    """One run of a layer that has an adapter.

    Attributes:
        owner: the adapter's layer.
        residual: what the layer adds to the output that is changed.
        cache: where the keys of past tokens are kept.
        running: the adapters that take part, each with the rows of the batch it is for (int64), or
            None for all rows.
        graphs: the graph of each of them, in their order; None until the attention was read.
    """

    owner: object
    residual: Tensor | None = None
    cache: Any = None
    running: tuple[tuple[str, Tensor | None], ...] = ()
    graphs: tuple[AttentionGraph, ...] | None = None


_calls: ContextVar[tuple[Call, ...]] = ContextVar("graphformer_adapter_calls", default=())


def of(owner: object) -> Call:
    """The run of the layer that this thread is in; its first hook begins it."""
    known = _calls.get()
    call = next((call for call in known if call.owner is owner), None)
    if call is None:
        call = Call(owner)
        _calls.set((*known, call))
    return call


def end(owner: object) -> Call | None:
    """The run is over: its call, which is forgotten."""
    known = _calls.get()
    if not known:
        return None
    _calls.set(tuple(call for call in known if call.owner is not owner))
    return next((call for call in known if call.owner is owner), None)


# ---------------------------------------------------------------------- which adapter for which row


@dataclass(frozen=True)
class Rows:
    """``adapter_names``: an adapter for each row of the batch. ``repeats``: whether a row may have
    become several, as in beam search.
    """

    names: tuple[str, ...]
    repeats: bool = False

    def of(self, batch: int) -> list[str]:
        """A name for each of ``batch`` rows.

        Raises:
            ValueError: there are more or fewer names than rows.
        """
        times, left = divmod(batch, max(len(self.names), 1))
        if left or times == 0 or (times > 1 and not self.repeats):
            raise ValueError(
                "adapter_names must have one name for each row of the batch, but it has "
                f"{len(self.names)} ({', '.join(self.names)}) and the batch has {batch} rows; "
                f"{BASE!r} is the name for rows without an adapter"
            )
        # transformers repeats each row in its place
        return [name for name in self.names for _ in range(times)]


_rows: ContextVar[Rows | None] = ContextVar("graphformer_adapter_rows", default=None)


def rows() -> Rows | None:
    """The ``adapter_names`` of the call that this thread is in."""
    return _rows.get()


@contextmanager
def by_row(names: Sequence[str]) -> Iterator[None]:
    """An adapter for each row, inside."""
    token = _rows.set(Rows(tuple(names)))
    try:
        yield
    finally:
        _rows.reset(token)


def repeating(generate: Callable[..., Any]) -> Callable[..., Any]:
    """A function that generates: beams and returned sequences repeat the rows of the batch, and
    their adapters with them.
    """

    @functools.wraps(generate)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        asked = _rows.get()
        if asked is None:
            return generate(*args, **kwargs)
        token = _rows.set(Rows(asked.names, repeats=True))
        try:
            return generate(*args, **kwargs)
        finally:
            _rows.reset(token)

    return wrapped


def hand_names_on(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A hook for PEFT's wrappers of ``modules_to_save``: each row through the copy of its adapter,
    or through the base model's own where the adapter has none.
    """
    asked = _rows.get()
    if asked is None:
        return None
    if not args:
        raise ValueError(
            "adapter_names needs to know the rows of what "
            f"{type(module.original_module).__name__}, a module of modules_to_save, is called "
            "with, and this model calls it with keywords alone: run one adapter at a time with "
            "set_adapter"
        )
    known = module._adapters
    names = [name if name in known else BASE for name in asked.of(len(args[0]))]
    return args, {**kwargs, "adapter_names": names}
