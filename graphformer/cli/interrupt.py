"""Control-C on the command line: one line that says what is kept, and exit code 130, as shells have
it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from graphformer.errors import require
from graphformer.training.run import is_main_process, kept

typer = require("typer", extra="text", why="The command line")


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """A command; of one with a folder of a run, the line says what is in it."""
    trains = command.__name__.startswith("train")

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            if is_main_process():
                told = (
                    kept(kwargs["output"])
                    if trains
                    else "nothing is written; the same command starts again"
                )
                typer.echo(f"interrupted: {told}.", err=True)
            raise typer.Exit(130) from None

    return run
