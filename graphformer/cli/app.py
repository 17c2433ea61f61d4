"""The command line: which commands there are. Each is imported when it is called, so that
``--help`` and a typing error are answered at once.

What a user can mend is told in one line, with exit code 2. GRAPHFORMER_TRACEBACK=1 in the
environment shows where it came from.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import graphformer
from graphformer.cli.interrupt import interruptible
from graphformer.cli.options import Command, spelled, value_of
from graphformer.cli.telling import be_quiet, say, show_warning
from graphformer.cli.wording import in_options
from graphformer.errors import MissingExtra, did_you_mean, require

typer = require("typer", extra="text", why="The command line")
core: Any = require("typer.core", extra="text", why="The command line")

COMMANDS = {
    "demo": ("demo", "demo", "A small model and a page of its graphs, in about a minute."),
    "train": ("text", "train", "Train a language model on a text."),
    "generate": ("text", "generate", "Let a trained model continue a prompt."),
    "evaluate": ("evaluate", "evaluate", "Loss and perplexity of a language model on a text."),
    "finetune": ("finetune", "finetune", "Fine-tune a pre-trained model by an adapter."),
    "train-graphs": ("graphs", "train_graphs", "Train a model of graphs: polymers, proteins, ..."),
    "predict": ("predict", "predict", "Predict what is in new files with a trained model."),
    "inspect": ("look", "inspect", "The attention graphs of a model, as a page or a table."),
    "bench": ("bench", "bench", "What graphs cost on this machine."),
    "doctor": ("doctor", "doctor", "What is installed, what is missing, and a self-test."),
}
"""By name: the module in this folder, its function, and a line of help."""


class Lazy(core.TyperGroup):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            ctx.fail(f"No such command {name!r}{did_you_mean(name, COMMANDS)}.")
        module, function, _ = COMMANDS[name]
        command = getattr(importlib.import_module(f"graphformer.cli.{module}"), function)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, cls=Command)(interruptible(command))
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


app = typer.Typer(
    cls=Lazy,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would take [default: ...] for markup
)


def _version(asked: bool) -> None:
    if asked:
        say(f"graphformer {graphformer.__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors alone.")
    ] = False,
) -> None:
    """Graph-aware transformers: an attention head is a graph.

    Train, fine-tune and look inside language models; train models of graphs and predict with them.
    """
    be_quiet(quiet)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with these arguments (those of the process unless given). Ends with
    SystemExit.
    """
    with warnings.catch_warnings():
        warnings.showwarning = show_warning  # type: ignore[assignment]
        try:
            raise SystemExit(
                app(args=arguments, prog_name="graphformer", standalone_mode=False) or 0
            )
        except Exception as error:
            if hasattr(error, "format_message"):
                _tell_usage(error, sys.argv[1:] if arguments is None else arguments)
            if os.environ.get("GRAPHFORMER_TRACEBACK") or not _mendable(error):
                raise
            told = in_options(" ".join(str(_told(error)).split()), spelled())
            say(f"error: {told}", err=True)
            raise SystemExit(2) from None


def _tell_usage(error: Any, arguments: list[str]) -> NoReturn:
    """What the parser finds wrong with options and arguments, in a line with the value that was
    given. Without any argument, help.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        where = f"; see {error.ctx.command_path} --help" if getattr(error, "ctx", None) else ""
        names = getattr(getattr(error, "param", None), "opts", ())
        values = [one for name in names if (one := value_of(name, arguments)) is not None]
        got = f", got {values[-1]!r}" if values else ""
        say(f"error: {' '.join(error.format_message().split()).rstrip('.')}{got}{where}", err=True)
    raise SystemExit(error.exit_code) from None


def _mendable(error: Exception) -> bool:
    """Whether a user can mend it."""
    kinds = (ValueError, TypeError, OSError, MissingExtra, NotImplementedError)
    return isinstance(error, kinds) or _of_config(error)


def _told(error: Exception) -> BaseException:
    """What a config finds wrong is the cause of a longer tale."""
    return error.__cause__ if _of_config(error) and error.__cause__ else error


def _of_config(error: Exception) -> bool:
    """Whether transformers' check of a config raised it; by name, because importing it takes
    long.
    """
    return any(kind.__name__ == "StrictDataclassError" for kind in type(error).__mro__)
