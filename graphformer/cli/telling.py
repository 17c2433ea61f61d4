"""What the command line prints."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def be_quiet(asked: bool) -> None:
    """Whether only results, warnings and errors are printed."""
    _quiet.set(asked)


def talks() -> bool:
    """Whether this process shows how far it is: not with ``--quiet``, and of several the first."""
    return os.environ.get("RANK", "0") == "0" and not _quiet.get()


def say(text: str, err: bool = False, result: bool = False) -> None:
    """Print, but once: the other processes of a run keep silent. ``result``: what the command is
    called for, with ``--quiet`` too.
    """
    if talks() or ((err or result) and os.environ.get("RANK", "0") == "0"):
        typer.echo(text, err=err)


def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A warning of ours as a line; others are not for users."""
    if issubclass(category, UserWarning):
        say(f"warning: {message}", err=True)
