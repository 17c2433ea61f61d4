"""What a run leaves in its folder beside the model: how it was called, and what came out.

``command.yaml`` holds the command with every option, the versions and the date; ``--config`` runs
it again, and ``--resume`` reads it, so that it needs no other option. ``metrics.jsonl`` is the
history, a line an entry; ``metrics.json`` the figures at the end; ``README.md`` a model card.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from graphformer.cli.options import COMMAND_FILE, LENGTHS, running
from graphformer.cli.telling import say
from graphformer.errors import MissingExtra
from graphformer.training.file_checks import read_json
from graphformer.training.run import (
    DATA_FILE,
    LOCK_FILE,
    PARAMETERS_FILE,
    SETTINGS_FILE,
    SPLIT_FILE,
    is_main_process,
)
from graphformer.training.saving import write_text

FILES = {
    COMMAND_FILE: "the command, its options and the versions of libraries",
    DATA_FILE: "which files were read, their digests, and the parts of a text",
    SPLIT_FILE: "which graphs were trained on, validated with and tested",
    "metrics.json": "the figures above",
    "metrics.jsonl": "the figures on the way, a line each",
    "losses.png": "those, drawn",
    PARAMETERS_FILE: "alpha, epsilon, lambda, ... of each layer over the run",
    "parameters.png": "those, drawn",
    "predictions.csv": "the test graphs, with what was predicted of them",
    "parity.png": "those, drawn",
    SETTINGS_FILE: "what a resumed run is compared with",
}
"""What a model card says of a run's files."""
PACKAGES = ("graphformer", "torch", "torch-geometric", "transformers", "peft", "numpy")


@contextmanager
def recorded(output: Path, resume: bool, files: Mapping[str, str]) -> Iterator[None]:
    """Write down how the run was called and what it reads, before it starts inside. One that is
    refused before it has written anything leaves nothing.

    A resumed run has all this already. Where it is given another length, the file says so.

    Args:
        files: the text of further files by their names; see :mod:`graphformer.cli.data_record`.
    """
    if not is_main_process():
        yield
        return
    path, made = output / COMMAND_FILE, not output.exists()
    before = path.read_text(encoding="utf-8") if resume and path.is_file() else None
    text = _command() if before is None else _of_new_length(before)
    new = {COMMAND_FILE: text} if text != before else {}
    new |= {
        name: text for name, text in files.items() if not (resume and (output / name).is_file())
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in new.items():
        write_text(output / name, text)
    try:
        yield
    except Exception:
        if {left.name for left in output.iterdir()} <= {COMMAND_FILE, LOCK_FILE, *files}:
            for left in output.iterdir():
                left.unlink()
            if made:
                output.rmdir()
        elif before is not None and text != before and not _is_of(output, text):
            write_text(path, before)  # refused
        raise


def _command() -> str:
    name, options = running()
    told = {
        "command": name,
        "options": {key: plain(value) for key, value in options.items()},
        "command_line": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": _now(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    return _yaml(told)


def _of_new_length(before: str) -> str:
    """The file of a run that goes on, with the length that it is given now. What was asked for
    earlier stands under ``lengths``, in its order.
    """
    told, (_, options) = yaml.safe_load(before), running()
    old = told["options"]
    new = {name: options[name] for name in LENGTHS if options.get(name) != old.get(name)}
    if not new:
        return before
    past = {"until": _now(), **{name: old.get(name) for name in new}}
    return _yaml({**told, "options": {**old, **new}, "lengths": [*told.get("lengths", []), past]})


def _is_of(output: Path, command: str) -> bool:
    """Whether the run has taken the length of a command."""
    stored = read_json(output / SETTINGS_FILE, []) or {}
    options = yaml.safe_load(command)["options"]
    return all(stored.get(name, options.get(name)) == options.get(name) for name in LENGTHS)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _yaml(told: Mapping[str, Any]) -> str:
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """As YAML has it; paths as seen from anywhere."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, str) and os.sep in value and Path(value).exists():
        return str(Path(value).absolute())
    return value


def finish(
    output: Path,
    metrics: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
    *,
    title: str,
    about: str,
    use: str,
) -> None:
    """Write down what came out.

    Args:
        metrics: the figures at the end. history: those on the way, in their order.
        title, about, use: of the model card; ``use`` is how to go on, in a line of the shell.
    """
    if not is_main_process():
        return
    write_text(output / "metrics.json", json.dumps(metrics, indent=1, default=float) + "\n")
    lines = [json.dumps(entry, default=float) for entry in history]
    write_text(output / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
    _draw(output)
    rows = "\n".join(f"| {name} | {_short(value)} |" for name, value in metrics.items())
    files = "".join(
        f"- `{name}`: {told}\n" for name, told in FILES.items() if (output / name).is_file()
    )
    write_text(
        output / "README.md",
        f"---\nlibrary_name: graphformer\n---\n\n# {title}\n\n{about}\n\n"
        f"| metric | value |\n| --- | --- |\n{rows}\n\n"
        f"Go on with\n\n    {use}\n\n`graphformer {running()[0]} --config {COMMAND_FILE} --output "
        f"ANOTHER` runs it again.\n\n{files}",
    )


def _draw(output: Path) -> None:
    """The pictures of a run, where matplotlib is installed."""
    from graphformer.inspect import plot_losses, plot_parameters

    for name, draw in (("losses.png", plot_losses), ("parameters.png", plot_parameters)):
        if name == "parameters.png" and not (output / PARAMETERS_FILE).is_file():
            continue  # plain attention has none
        try:
            draw(output, output / name)
        except MissingExtra as error:
            say(f"{name} is not drawn: {error}")


def of_language(result: Any) -> dict[str, Any]:
    """The figures of a language model's run (:class:`graphformer.training.TrainingResult`)."""
    return {
        "validation_loss_nats_per_token": result.evaluation.loss_nats_per_token,
        "validation_perplexity": result.evaluation.perplexity,
        "validation_tokens": result.evaluation.num_tokens,
        "train_loss": result.train_loss,
        "steps": result.steps,
    }


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
