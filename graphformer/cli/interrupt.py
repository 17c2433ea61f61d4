"""Control-C on the command line: one line that says what is kept, and exit code 130, as shells have
it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from graphformer.cli.telling import say
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """A command; of one with a folder of a run, the line says what is in it."""
    trains = "output" in inspect.signature(command).parameters

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            told = "nothing is written; the same command starts again"
            if trains:
                from graphformer.training.run import kept

                told = kept(kwargs["output"])
            say(f"interrupted: {told}.", err=True)
            raise typer.Exit(130) from None

    return run
