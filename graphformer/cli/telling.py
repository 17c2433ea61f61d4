"""What the command line prints."""

from __future__ import annotations

import os
from typing import Any

from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")


def say(text: str, err: bool = False) -> None:
    """Print, but once: the other processes of a run keep silent."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=err)


def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A warning of ours as a line; others are not for users."""
    if issubclass(category, UserWarning):
        say(f"warning: {message}", err=True)
