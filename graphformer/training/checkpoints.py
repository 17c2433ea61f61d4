"""Checkpoints and saved models are verified before they are used.

A checkpoint is the folder ``checkpoint-<step>`` that
:class:`~graphformer.training.resumable.ResumableTrainer` writes. It is complete when every file
that a resumed run reads is the one that was saved: by its digest in ``SHA256SUMS``, or, where an
earlier version has written none, by what the file itself tells of its length and its parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from torch import nn

from graphformer.training.file_checks import (
    archive_problems,
    digest_problems,
    json_problems,
    read_json,
    read_sums,
    safetensors_problems,
    weight_problems,
)
from graphformer.training.saving import SUMS_FILE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WEIGHTS, INDEX, STATE = "model.safetensors", "model.safetensors.index.json", "trainer_state.json"
_UNREAD = {"training_args.bin"}  # the Trainer writes it, and nobody here reads a pickle


def latest_checkpoint(
    output_dir: str | Path, processes: int = 1, model: nn.Module | None = None
) -> Path | None:
    """The newest complete checkpoint of a run, or None where the run has not finished writing any.

    A broken one that is newer is passed over with a warning that names it and what is wrong with
    it.

    Args:
        output_dir: the folder of the run.
        processes: the number of processes that the run has; each one saves its random state.
        model: the model to be trained on; its weights must be those of the checkpoint by name and
            shape.

    Raises:
        ValueError: there are checkpoints and none is complete; each is named with what is wrong
            with it.
    """
    broken: list[str] = []
    unfinished = True
    for _, folder in sorted(found_checkpoints(output_dir).items(), reverse=True):
        problems = checkpoint_problems(folder, processes, model)
        if not problems:
            for text in broken:
                warnings.warn(
                    f"passed over the broken checkpoint {text}; resuming from {folder}",
                    stacklevel=2,
                )
            return folder
        broken.append(f"{folder}: {'; '.join(problems)}")
        # Earlier versions wrote in place, and this file last: without it, nothing was lost that had
        # been whole.
        unfinished = (
            unfinished and not (folder / STATE).exists() and not (folder / SUMS_FILE).exists()
        )
    if broken and not unfinished:
        raise ValueError(
            f"output_dir: no checkpoint in {str(output_dir)!r} is complete ({' | '.join(broken)}). "
            "Remove those folders and start again, or put back a complete one."
        )
    for text in broken:
        warnings.warn(
            f"passed over the unfinished checkpoint {text}; starting from the beginning",
            stacklevel=2,
        )
    return None


def found_checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """The folders ``checkpoint-<step>`` of a run by their steps, whole or not."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.is_dir()]
    return {
        int(step): folder
        for folder in folders
        if (step := folder.name.removeprefix("checkpoint-")).isdecimal()
    }


def require_complete(
    checkpoint: str | Path, processes: int = 1, model: nn.Module | None = None
) -> Path:
    """The path of a checkpoint that was named explicitly.

    Raises:
        ValueError: it is missing or not complete; the error says what is wrong with it.
    """
    if problems := checkpoint_problems(checkpoint, processes, model):
        raise ValueError(
            f"resume: the checkpoint {str(checkpoint)!r} is not complete ({'; '.join(problems)}). "
            "Name another one, or let resume=True take the newest that is complete."
        )
    return Path(checkpoint)


def checkpoint_problems(
    checkpoint: str | Path, processes: int = 1, model: nn.Module | None = None
) -> list[str]:
    """What is wrong with a checkpoint, a short text for each problem; an empty list if it can be
    resumed from.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return ["there is no such folder"]
    states = (
        ["rng_state.pth"]
        if processes == 1
        else [f"rng_state_{rank}.pth" for rank in range(processes)]
    )
    archives = {name: archive_problems for name in ("optimizer.pt", "scheduler.pt", *states)}
    problems = _problems(folder, {**archives, STATE: json_problems}, model)
    if any(text.startswith(STATE) for text in problems):
        return problems
    state = read_json(folder / STATE, problems) or {}
    if folder.name != f"checkpoint-{state.get('global_step')}":
        problems.append(f"{STATE} is of step {state.get('global_step')}")
    best = state.get("best_global_step")
    # a graph model ends with the best weights: without them, with others
    if best and best != state["global_step"]:
        of_best = model_problems(folder.parent / f"checkpoint-{best}", model)
        problems += [f"checkpoint-{best}, the best up to there: {text}" for text in of_best]
    return problems


def model_problems(folder: str | Path, model: nn.Module | None = None) -> list[str]:
    """What is wrong with a saved model (weights and config, and tokenizer if there is one); an
    empty list if it can be loaded.

    With ``model``, its weights must be those of the folder by name and shape.
    """
    folder = Path(folder)
    return (
        _problems(folder, {}, model)
        if folder.is_dir()
        else ["there is no such folder" if not folder.exists() else "it is no folder"]
    )


def _problems(
    folder: Path, further: dict[str, Callable[[Path], list[str]]], model: nn.Module | None
) -> list[str]:
    """Of the files of a model and of ``further`` ones, each with a check for where there is no
    digest.
    """
    problems: list[str] = []
    sums = read_sums(folder, problems)
    if problems:
        return problems
    # A run's own folder lists its model alone, and one that was saved before its checkpoints lists
    # them not at all.
    adapter = (folder / ADAPTER_CONFIG).exists()  # of PEFT, whose base model lies elsewhere
    config = ADAPTER_CONFIG if adapter else "config.json"
    checks: dict[str, Callable[[Path], list[str]]] = {config: json_problems, **further}
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX):
        if (folder / name).exists():
            checks[name] = json_problems
    shards = [ADAPTER_WEIGHTS if adapter else WEIGHTS]
    listed = set(sums or ()) - _UNREAD
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX, [])
        names = index.get("weight_map") if index else None
        if not isinstance(names, dict) or not all(
            isinstance(name, str) and name == Path(name).name for name in names.values()
        ):
            return [f"{INDEX} is cut short or damaged"]
        shards = sorted(set(names.values()))
    checks |= {name: safetensors_problems for name in shards}
    for name in (*checks, *sorted(listed - set(checks))):
        path = folder / name
        found = digest_problems(folder, name, sums) if sums is not None else checks[name](path)
        # what is wrong in it tells more than a digest
        if found and sums is not None and name in checks:
            found = checks[name](path) or found
        problems += found
    if not problems and model is not None:
        problems = weight_problems([folder / name for name in shards], model)
    return problems
