"""Watching what the layers of this library score: whoever watches sees each problem that this
thread poses, before any executor is chosen for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from graphformer.attention.pairs import Listed
from graphformer.attention.problem import Problem

See = Callable[[Problem, Tensor], None]
SeeEdges = Callable[[Problem, Listed, Tensor | None], None]
_see_edges: ContextVar[SeeEdges | None] = ContextVar("graphformer_watching_edges", default=None)
_see: ContextVar[See | None] = ContextVar("graphformer_watching", default=None)


@contextmanager
def watching(see: See) -> Iterator[None]:
    """Call ``see(problem, x)`` for every :func:`graphformer.attention.attend` inside."""
    token = _see.set(see)
    try:
        yield
    finally:
        _see.reset(token)


def watched() -> bool:
    """Whether somebody watches this thread."""
    return _see.get() is not None


def tell(problem: Problem, x: Tensor) -> None:
    """What attend calls with the problem and the senders' features ``[B, Hkv, Nk, D]``."""
    see = _see.get()
    if see is not None:
        see(problem, x)


@contextmanager
def watching_edges(see: SeeEdges) -> Iterator[None]:
    """Call ``see(problem, pairs, bias)`` for what every layer on edges weighs inside."""
    token = _see_edges.set(see)
    try:
        yield
    finally:
        _see_edges.reset(token)


def tell_edges(problem: Problem, pairs: Listed, bias: Tensor | None) -> None:
    """What layers on edges call with the problem, all listed pairs, and what is added to logits."""
    see = _see_edges.get()
    if see is not None:
        see(problem, pairs, bias)
