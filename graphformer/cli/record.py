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

from graphformer.cli.options import COMMAND_FILE, running
from graphformer.training.run import LOCK_FILE, is_main_process
from graphformer.training.saving import write_text

PACKAGES = ("graphformer", "torch", "torch-geometric", "transformers", "peft", "numpy")


@contextmanager
def recorded(output: Path, resume: bool) -> Iterator[None]:
    """Write down how the run was called, before it starts inside. One that is refused before it has
    written anything leaves nothing.
    """
    path = output / COMMAND_FILE
    if not is_main_process() or (resume and path.is_file()):
        yield
        return
    made = not output.exists()
    name, options = running()
    output.mkdir(parents=True, exist_ok=True)
    told = {
        "command": name,
        "options": {key: plain(value) for key, value in options.items()},
        "command_line": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    write_text(path, yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    try:
        yield
    except Exception:
        if {left.name for left in output.iterdir()} <= {COMMAND_FILE, LOCK_FILE}:
            for left in output.iterdir():
                left.unlink()
            if made:
                output.rmdir()
        raise


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
    rows = "\n".join(f"| {name} | {_short(value)} |" for name, value in metrics.items())
    write_text(
        output / "README.md",
        f"---\nlibrary_name: graphformer\n---\n\n# {title}\n\n{about}\n\n"
        f"| metric | value |\n| --- | --- |\n{rows}\n\n"
        f"Go on with\n\n    {use}\n\nHow it was made is in `{COMMAND_FILE}`; "
        f"`graphformer {running()[0]} --config {COMMAND_FILE} --output ANOTHER` runs it again.\n",
    )


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
