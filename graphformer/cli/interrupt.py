"""Control-C on the command line: one line that says what is kept, and exit code 130, as shells have
it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphformer.cli.telling import say
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")


_WRITTEN = ("output", "plot", "bfactors")  # options that name a file or folder to write


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """A command; of one that keeps a run (``--resume``), the line says how to go on with it."""
    keeps_run = "resume" in inspect.signature(command).parameters

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        places = [Path(kwargs[name]) for name in _WRITTEN if kwargs.get(name) is not None]
        before = {place: _stamp(place) for place in places}
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            if keeps_run:
                from graphformer.training.run import kept

                told = kept(kwargs["output"])
            else:
                told = _left(
                    [place for place in places if _stamp(place) not in ((), before[place])]
                )
            say(f"interrupted: {told}.", err=True)
            raise typer.Exit(130) from None

    return run


def _stamp(place: Path) -> tuple[tuple[str, int], ...]:
    """The files there and when each was written; nothing where there are none."""
    found = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
    return tuple((str(one), one.stat().st_mtime_ns) for one in found if one.is_file())


def _left(places: list[Path]) -> str:
    """What a command without checkpoints has left."""
    if not places:
        return "nothing is written; the same command starts again"
    names = " and ".join(repr(str(place)) for place in places)
    return f"{names} may be incomplete; remove what is there, and the same command starts again"
