"""The folder of a run: who may write into it, and the settings it was started with."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import PretrainedConfig

from graphformer.datasets.text import TextDataset

SETTINGS_FILE = "run.json"
# Set by whoever saves or loads a config, or without influence on the result.
_NO_SETTINGS = {"transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "backend", "executor"}


def is_main_process() -> bool:
    """Whether this process prints and saves: the only one, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def claim_output_dir(output_dir: str | Path, resume: bool) -> Path:
    """The folder to write into. Other people's files are never written over. Only the first process looks.

    Raises:
        ValueError: a file; a folder with files in it although the run is new; a folder to resume in that holds no run.
    """
    folder = Path(output_dir)
    if not is_main_process():
        return folder
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir: {str(folder)!r} is a file; name a folder.")
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and not resume:
        raise ValueError(
            f"output_dir: {str(folder)!r} is not empty, and nothing in it is written over; name another folder, or continue "
            f"the run in it with resume (--resume)."
        )
    if occupied and not (folder / SETTINGS_FILE).is_file():
        raise ValueError(
            f"output_dir: {str(folder)!r} is not empty and holds no run to resume (no {SETTINGS_FILE}); name the folder of a "
            f"run, or an empty one to start a new run."
        )
    return folder


def config_settings(config: PretrainedConfig) -> dict[str, Any]:
    """The settings of a model, as ``model.<name>``."""
    return {f"model.{name}": value for name, value in config.to_dict().items() if name not in _NO_SETTINGS and not name.startswith("_")}


def dataset_settings(name: str, dataset: Dataset) -> dict[str, Any]:
    """What identifies a data set: its windows and a hash of its tokens; of other data sets than text, the length."""
    if not isinstance(dataset, TextDataset):
        return {f"{name}.length": len(dataset)}  # type: ignore[arg-type]
    return {
        f"{name}.tokens": hashlib.sha256(dataset.tokens.numpy().tobytes()).hexdigest()[:16],
        f"{name}.context_length": dataset.context_length,
        f"{name}.stride": dataset.stride,
    }


def save_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings in one step, so that a killed run leaves either all of them or none."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{SETTINGS_FILE}.tmp"
    unfinished.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / SETTINGS_FILE)


def require_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Nothing happens where the folder holds no settings.

    Raises:
        ValueError: the run in ``folder`` was started with other settings; each one that differs is named with both values.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"resume: {str(path)!r} is damaged ({error}); start a new run in another folder.") from None
    now = json.loads(json.dumps(settings, default=str))
    # A name that only one side has comes from another version of a library, not from the user.
    differing = [name for name in now if name in before and before[name] != now[name]]
    if differing:
        raise ValueError(
            f"resume: the run in {str(folder)!r} was started with other settings: "
            + "; ".join(f"{name} was {before[name]!r}, now it is {now[name]!r}" for name in differing)
            + ". Give the same settings, or start a new run in another folder."
        )
