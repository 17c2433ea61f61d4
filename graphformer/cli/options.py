"""Which options were given on the command line, where the others come from, and errors for those
that have no effect beside the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from graphformer.errors import did_you_mean, require

typer = require("typer", extra="text", why="The command line")
core: Any = require("typer.core", extra="text", why="The command line")

LENGTHS = ("steps", "epochs")
"""The options that a resumed run may be given anew."""
COMMAND_FILE = "command.yaml"
"""How a run was called, in its folder (:mod:`graphformer.cli.record`)."""

Config = Annotated[
    Path | None,
    typer.Option(help=f"The {COMMAND_FILE} of an earlier run, for all that is not given here."),
]
"""The option that :class:`Command` reads before the others are parsed."""

_given: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())
_running: ContextVar[tuple[str, dict[str, Any]]] = ContextVar("running", default=("", {}))
_spelled: ContextVar[dict[str, str]] = ContextVar("spelled", default={})  # noqa: B039, never changed


class Command(core.TyperCommand):
    """A command that remembers which of its options were given: a default says nothing, the same
    value given does.

    One that keeps a run (``--resume``) also takes ``--config``, the options of an earlier run, and
    reads those of the run that it resumes. An option that is given counts more.
    """

    @property
    def keeps_run(self) -> bool:
        return any(one.name == "resume" for one in self.params)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        _given.set(frozenset())
        _running.set((ctx.info_name, {}))
        _spelled.set(
            {
                one.name: one.opts[0]
                if one.param_type_name == "option"
                else (one.metavar or one.name).upper()
                for one in self.params
            }
        )
        if self.keeps_run:
            stored = self._stored(ctx, args)
            if stored:
                ctx.default_map = {**(ctx.default_map or {}), **stored}
        return super().parse_args(ctx, args)

    def _stored(self, ctx: Any, args: list[str]) -> dict[str, Any]:
        """The options of the run that is run again, or resumed."""
        config, output = value_of("--config", args), value_of("--output", args)
        if config is not None:
            path, resumes = Path(config), False
        elif "--resume" in args and output is not None:
            path, resumes = Path(output) / COMMAND_FILE, True
        else:
            return {}
        if not path.is_file():
            if resumes:
                return {}
            raise ValueError(f"--config {config!r} is no file")
        try:
            told = require("yaml", extra="text", why="--config").safe_load(path.read_text("utf-8"))
            command, options = told["command"], dict(told["options"])
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read as the {COMMAND_FILE} of a run "
                f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            ) from None
        if command != ctx.info_name:
            raise ValueError(f"{path} is of graphformer {command}, not of {ctx.info_name}")
        known = {one.name for one in self.params}
        for name in options:
            if name not in known:
                raise ValueError(f"{path}: unknown option {name!r}{did_you_mean(name, known)}")
        for name in ("output", "resume", "config"):
            options.pop(name, None)
        if resumes:
            _require_one_length(path, options, args)
        return {name: value for name, value in options.items() if value is not None}

    def invoke(self, ctx: Any) -> Any:
        sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
        _given.set(
            frozenset(
                name
                for name, one in sources.items()
                if one is not None and one.name == "COMMANDLINE"
            )
        )
        _running.set((ctx.info_name, {k: v for k, v in ctx.params.items() if k != "config"}))
        return super().invoke(ctx)


def _require_one_length(path: Path, options: Mapping[str, Any], args: list[str]) -> None:
    """ValueError where the two files of a run differ in its length, which nothing but an option
    changes: one is damaged, or the run was killed while it was given another.
    """
    try:
        stored = json.loads((path.parent / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        return  # told where the settings are compared
    for name in LENGTHS:
        told, asked = options.get(name), value_of(flag(name), args)
        known = stored.get(name) if isinstance(stored, dict) else None
        if asked is None and None not in (told, known) and told != known:
            raise ValueError(
                f"{path} says {name}: {told}, and run.json {name}: {known}; say with {flag(name)} "
                "how long the run is"
            )


def value_of(option: str, args: list[str]) -> str | None:
    """The last value of an option among arguments that nobody has parsed yet."""
    found = None
    for place, argument in enumerate(args):
        if argument == option and place + 1 < len(args):
            found = args[place + 1]
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def given() -> frozenset[str]:
    """The names of the arguments that were given to the command that is running."""
    return _given.get()


def running() -> tuple[str, dict[str, Any]]:
    """The command that is running, and all its options."""
    return _running.get()


def spelled() -> dict[str, str]:
    """How a user spells the arguments of the command that is running, or has just ended:
    ``{"top_k": "--top-k", "text_file": "TEXT_FILE"}``.
    """
    return _spelled.get()


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


def require_file_place(option: str, path: Path) -> None:
    """Raise ValueError unless a file can be written to ``path``, before any time is spent on what
    is to be in it.
    """
    if path.is_dir():
        raise ValueError(f"{option} {str(path)!r} is a folder; name a file in it.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option} {str(path)!r}: its folder does not exist; make it first.")
