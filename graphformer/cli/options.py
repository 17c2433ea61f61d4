"""Which options were given on the command line, and errors for those that have no effect beside the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from graphformer.errors import require

core: Any = require("typer.core", extra="text", why="The command line")

_given: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())


class Command(core.TyperCommand):
    """A command that remembers which of its options were given: a default says nothing, the same
    value given does.
    """

    def invoke(self, ctx: Any) -> Any:
        sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
        token = _given.set(
            frozenset(
                name
                for name, one in sources.items()
                if one is not None and one.name == "COMMANDLINE"
            )
        )
        try:
            return super().invoke(ctx)
        finally:
            _given.reset(token)


def given() -> frozenset[str]:
    """The names of the arguments that were given to the command that is running."""
    return _given.get()


def flag(name: str) -> str:
    """``"--top-k"`` of ``"top_k"``."""
    return f"--{name.replace('_', '-')}"


def refuse_idle(reasons: Mapping[str, str]) -> None:
    """Raise ValueError for the first of these options that was given: the text says why it has no
    effect.
    """
    for name, why in reasons.items():
        if name in given():
            raise ValueError(f"{flag(name)} has no effect {why}; leave it out.")
