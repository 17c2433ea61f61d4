"""Checkpoints are checked before they are used: a killed run leaves half-written files behind.

A checkpoint is the folder ``checkpoint-<step>`` that transformers' Trainer writes. It is complete when every file that a resumed
run reads is there and can be read to its end. The Trainer writes ``trainer_state.json`` last.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


def latest_checkpoint(output_dir: str | Path, processes: int = 1) -> Path | None:
    """The newest complete checkpoint of a run, or None where the run has not written any.

    A broken one that is newer is passed over with a warning that names it and what is wrong with it.

    Args:
        output_dir: the folder of the run.
        processes: the number of processes that the run has; each one saves its random state.

    Raises:
        ValueError: there are checkpoints and none is complete; each is named with what is wrong with it.
    """
    found = {}
    for folder in Path(output_dir).glob("checkpoint-*"):
        if folder.is_dir() and folder.name.removeprefix("checkpoint-").isdigit():
            found[int(folder.name.removeprefix("checkpoint-"))] = folder
    broken: list[str] = []
    for step in sorted(found, reverse=True):
        problems = checkpoint_problems(found[step], processes)
        if not problems:
            for text in broken:
                warnings.warn(f"passed over the broken checkpoint {text}; resuming from {found[step]}", stacklevel=2)
            return found[step]
        broken.append(f"{found[step]}: {'; '.join(problems)}")
    if broken:
        raise ValueError(
            f"output_dir: no checkpoint in {str(output_dir)!r} is complete ({' | '.join(broken)}). Remove those folders and "
            f"start again, or put back a complete one."
        )
    return None


def require_complete(checkpoint: str | Path, processes: int = 1) -> Path:
    """The path of a checkpoint that was named explicitly.

    Raises:
        ValueError: it is missing or not complete; the error says what is wrong with it.
    """
    if problems := checkpoint_problems(checkpoint, processes):
        raise ValueError(
            f"resume: the checkpoint {str(checkpoint)!r} is not complete ({'; '.join(problems)}). Name another one, or let "
            f"resume=True take the newest that is complete."
        )
    return Path(checkpoint)


def checkpoint_problems(checkpoint: str | Path, processes: int = 1) -> list[str]:
    """What is wrong with a checkpoint, a short text for each problem; an empty list if it can be resumed from."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return ["there is no such folder"]
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    problems = model_problems(folder)
    problems += [text for name in ("optimizer.pt", "scheduler.pt", *states) for text in _archive_problems(folder / name)]
    state = _read_json(folder / "trainer_state.json", problems)
    if state is not None and folder.name != f"checkpoint-{state.get('global_step')}":
        problems.append(f"trainer_state.json is of step {state.get('global_step')}")
    return problems


def model_problems(folder: str | Path) -> list[str]:
    """What is wrong with a saved model (weights and config, and tokenizer if there is one); an empty list if it can be loaded."""
    folder = Path(folder)
    if not folder.is_dir():
        return ["there is no such folder"]
    problems: list[str] = []
    _read_json(folder / "config.json", problems)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            _read_json(folder / name, problems)
    shards = {"model.safetensors"}
    if (folder / "model.safetensors.index.json").exists():
        index = _read_json(folder / "model.safetensors.index.json", problems)
        shards = set(index.get("weight_map", {}).values()) if index else set()
    for name in sorted(shards):
        problems += _safetensors_problems(folder / name)
    return problems


def _safetensors_problems(path: Path) -> list[str]:
    if not path.is_file():
        return [f"{path.name} is missing"]
    try:
        with safe_open(path, framework="pt"):  # checks that the header is whole and that the file is as long as it says
            return []
    except (SafetensorError, OSError) as error:
        return [f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged: {error}"]


def _archive_problems(path: Path) -> list[str]:
    """torch.save writes zip archives, whose directory stands at the end and holds a checksum of each member."""
    if not path.is_file():
        return [f"{path.name} is missing"]
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # damage can look like anything: an encrypted member, a name that is no text
        return [f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged: {error}"]
    return [f"{path.name} is damaged: wrong checksum of {damaged}"] if damaged else []


def _read_json(path: Path, problems: list[str]) -> dict | None:
    if not path.is_file():
        problems.append(f"{path.name} is missing")
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} is cut short or damaged: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path.name} is damaged: it holds no table")
        return None
    return value
