"""A warning about layers whose graphs have no edge: one for a whole pass, and one for a model."""

from __future__ import annotations

import threading
import warnings
from contextvars import ContextVar
from dataclasses import dataclass

from graphformer.frozen.anatomy import Place
from graphformer.graph import AttentionGraph


@dataclass(frozen=True)
class _Pass:
    """What a pass has shown so far: the last layer that it came to, and those without edges."""

    owner: Edgeless
    order: int
    empty: tuple[str, ...]


_passes: ContextVar[tuple[_Pass, ...]] = ContextVar("graphformer_edgeless", default=())
_lock = threading.Lock()


@dataclass(eq=False)
class Edgeless:
    """Warns once, after a whole pass, of layers whose graphs have no edge.

    Attributes:
        last: the last layer that has adapters.
        warned: whether it has warned.
    """

    last: int = 0
    warned: bool = False

    def note(self, place: Place, graph: AttentionGraph) -> None:
        """A layer's graph."""
        # in decoding one token may well have no edge
        if self.warned or graph.num_receivers != graph.num_senders:
            return
        others = tuple(one for one in _passes.get() if one.owner is not self)
        order, empty = next(
            ((one.order, one.empty) for one in _passes.get() if one.owner is self), (-1, ())
        )
        if place.order < order:  # a new pass, and the one before ended early
            self._warn(empty)
            empty = ()
        if graph.num_edges == 0 and place.attention not in empty:
            empty = (*empty, place.attention)
        if place.order == self.last:
            _passes.set(others)
            self._warn(empty)
        else:
            _passes.set((*others, _Pass(self, place.order, empty)))

    def _warn(self, empty: tuple[str, ...]) -> None:
        with _lock:
            first = bool(empty) and not self.warned
            self.warned = self.warned or first
        if first:
            warnings.warn(
                f"no attention weight passes the threshold in {', '.join(empty)}: there Sparse-GIN "
                "has no edges and adds only its bias. Lower threshold in SparseGINConfig",
                stacklevel=3,
            )
