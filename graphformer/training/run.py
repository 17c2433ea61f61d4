"""The folder of a run: who may write into it, and the settings it was started with."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PretrainedConfig

from graphformer.datasets.text.windows import TextDataset
from graphformer.training.checkpoints import found_checkpoints
from graphformer.training.file_checks import read_json
from graphformer.training.saving import is_leftover, remove_leftovers, write_text

SETTINGS_FILE, LOCK_FILE, CURVES_FOLDER = "run.json", ".lock", "tensorboard"
COMMAND_FILE = "command.yaml"
"""How the command line was called; it writes it before anything else."""
DATA_FILE, SPLIT_FILE = "data.json", "split.csv"
"""What the command line's runs learn from (:mod:`graphformer.cli.data_record`)."""
PARAMETERS_FILE = "parameters.jsonl"
"""The numbers of a layer over the run (:mod:`graphformer.training.parameters`)."""
GRAPH_MODEL = "graphformer-graph-transformer"
"""The ``kind`` in ``config.json`` of a saved model of graphs."""
LOCK_SECONDS = 0.3  # for those who only look whether it is free
_DATA = ("text", ".tokens", ".graphs")  # settings that are digests of data
# Set by whoever saves or loads a config, or without influence on the result.
_NO_SETTINGS = {
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "backend",
    "executor",
}


def is_main_process() -> bool:
    """Whether this process prints and saves: the only one, or the first of those that torchrun
    started.
    """
    return int(os.environ.get("RANK", "0")) == 0


def claim_output_dir(output_dir: str | Path, resume: bool) -> Path:
    """The folder to write into. Other people's files are never written over. Only the first process
    looks.

    Raises:
        ValueError: a file; a folder with files in it although the run is new; a folder to resume in
            that holds no run; a folder that a living run is writing into.
    """
    folder = Path(output_dir)
    if is_main_process():
        _require_free(folder, resume)
        if (folder / LOCK_FILE).is_file():
            with _locked(folder):
                pass
    return folder


@contextmanager
def run_folder(output_dir: str | Path, resume: bool) -> Iterator[Path]:
    """:func:`claim_output_dir`, and until the block ends the folder is this run's alone. A killed
    run holds nothing.

    What a killed run has left unfinished is removed.
    """
    folder = Path(output_dir)
    if not is_main_process():
        yield folder
        return
    _require_free(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _require_free(folder, resume)  # another run may have come and gone in between
        remove_leftovers(folder)
        yield folder


def _require_free(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: {str(folder)!r} is a file; name a folder.")
    if not folder.is_dir():
        above = next(one for one in folder.absolute().parents if one.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            why = "cannot be written to" if above.is_dir() else "is a file"
            raise ValueError(
                f"output_dir: {str(folder)!r} cannot be made, because {str(above)!r} {why}; name "
                "another folder."
            )
        return
    names = {
        path.name
        for path in folder.iterdir()
        if path.name not in (LOCK_FILE, COMMAND_FILE, DATA_FILE, SPLIT_FILE)
        and not is_leftover(path)
    }
    # A run that has saved nothing but what it starts with and its curves is in nobody's way.
    begun = {SETTINGS_FILE, CURVES_FOLDER, PARAMETERS_FILE}
    if names and not resume and not (SETTINGS_FILE in names and names <= begun):
        raise ValueError(
            f"output_dir: {str(folder)!r} is not empty, and nothing in it is written over; name "
            "another folder, or continue the run in it with resume (--resume)."
        )
    if names and resume and not (folder / SETTINGS_FILE).is_file():
        raise ValueError(
            f"output_dir: {str(folder)!r} is not empty and holds no run to resume (no "
            f"{SETTINGS_FILE}); name the folder of a run, or an empty one to start a new run."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"output_dir: another run{_owner(path)} is writing into {str(folder)!r}; wait until it "
            "has ended, or name another folder."
        ) from None
    except NotImplementedError:
        warnings.warn(
            f"output_dir: the file system of {str(folder)!r} has no locks; see that no other run "
            "writes into it.",
            stacklevel=4,
        )
        yield
        return
    try:
        with suppress(OSError):  # a full disk
            path.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _owner(path: Path) -> str:
    try:
        told = path.read_text(encoding="utf-8")[:80]
    except (OSError, ValueError):
        told = ""
    return f" (process {told})" if told else ""


def kept(output_dir: str | Path) -> str:
    """What an interrupted run has left, and how to go on, in a line."""
    steps = found_checkpoints(output_dir)
    if not steps:
        return f"nothing is saved in {str(output_dir)!r} yet; the same command starts again"
    return (
        f"the checkpoint of step {max(steps)} is kept in {str(output_dir)!r}; go on with the same "
        "command and --resume"
    )


def config_settings(config: PretrainedConfig) -> dict[str, Any]:
    """The settings of a model, as ``model.<name>``."""
    return {
        f"model.{name}": value
        for name, value in config.to_dict().items()
        if name not in _NO_SETTINGS and not name.startswith("_")
    }


def dataset_settings(name: str, dataset: Dataset) -> dict[str, Any]:
    """What identifies a data set: its windows and a hash of its tokens; of other data sets than
    text, the length.
    """
    if not isinstance(dataset, TextDataset):
        return {f"{name}.length": len(dataset)}  # type: ignore[arg-type]
    return {
        f"{name}.tokens": hashlib.sha256(dataset.tokens.numpy().tobytes()).hexdigest()[:16],
        f"{name}.context_length": dataset.context_length,
        f"{name}.stride": dataset.stride,
    }


def save_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings in one step, so that a killed run leaves either all of them or none."""
    write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2, default=str) + "\n")


def require_same_settings(folder: Path, settings: dict[str, Any], but: str) -> None:
    """Nothing happens where the folder holds no settings. ``but``: the one that may differ, the
    run's length (:mod:`~graphformer.training.length`).

    Raises:
        ValueError: the run in ``folder`` was started with other settings; each one that differs is
            named with both values.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return
    problems: list[str] = []
    before = read_json(path, problems)
    if before is None:
        raise ValueError(
            f"resume: {str(path)!r} cannot be read ({'; '.join(problems)}); put it back, or start "
            "a new run in another folder."
        )
    now = json.loads(json.dumps(settings, default=str))
    # A name that only one side has comes from another version of a library, not from the user.
    differing = [
        name for name in now if name in before and name != but and before[name] != now[name]
    ]
    if differing:
        raise ValueError(
            f"resume: the run in {str(folder)!r} was started with other settings: "
            + "; ".join(
                f"{name} was {before[name]!r}, now it is {now[name]!r}" for name in differing
            )
            + (
                ". The data have changed since"
                if any(name.endswith(_DATA) for name in differing)
                else ""
            )
            + ". Give the same settings, or start a new run "
            + (
                "in another folder."
                if found_checkpoints(folder)
                else "in this folder, which holds no checkpoint yet."
            )
        )
