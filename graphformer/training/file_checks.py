"""What is wrong with a file: digests, whole archives, the names and shapes of weights. Nothing here
runs code that a file holds.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from graphformer.training.saving import SUMS_FILE, digest

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@contextmanager
def reading(what: object, remedy: str) -> Iterator[None]:
    """What a library raises over a damaged or foreign file, of whatever type, becomes a ValueError
    that names the file and the remedy.
    """
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())
        told = told if len(told) <= 300 else f"{told[:300]} ..."
        raise ValueError(
            f"{str(what)!r} cannot be read ({type(error).__name__}: {told}); {remedy}"
        ) from error


def read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The table in a JSON file; None, with a text in ``problems``, where it holds none."""
    if found := _no_file(path):
        problems.append(found)
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        problems.append(f"{path.name} is cut short or damaged: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path.name} is damaged: it holds no table")
        return None
    return value


def json_problems(path: Path) -> list[str]:
    problems: list[str] = []
    read_json(path, problems)
    return problems


def safetensors_problems(path: Path) -> list[str]:
    if found := _no_file(path):
        return [found]
    try:
        # checks that the header is whole and that the file is as long as it says
        with safe_open(path, framework="pt"):
            return []
    except (SafetensorError, OSError) as error:
        return [f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged: {error}"]


def archive_problems(path: Path) -> list[str]:
    """torch.save writes zip archives, whose directory stands at the end and holds a checksum of
    each member.
    """
    if found := _no_file(path):
        return [found]
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        # damage can look like anything: an encrypted member, a name that is no text
        return [f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged: {error}"]
    return [f"{path.name} is damaged: wrong checksum of {damaged}"] if damaged else []


def read_sums(folder: Path, problems: list[str]) -> dict[str, str] | None:
    """The digests of a folder's files; None where it has none, as folders of earlier versions."""
    path = folder / SUMS_FILE
    if not path.exists():
        return None
    try:
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        if not lines or not all(len(line) == 2 and len(line[0]) == 64 for line in lines):
            raise ValueError("it is no list of digests")
    except (ValueError, OSError) as error:
        problems.append(f"{SUMS_FILE} is cut short or damaged: {error}")
        return None
    return {name: value for value, name in lines}


def digest_problems(folder: Path, name: str, sums: Mapping[str, str]) -> list[str]:
    """Whether a file is the one that was saved."""
    path = folder / name
    if found := _no_file(path):
        return [found]
    if name not in sums:
        return [f"{name} is not in {SUMS_FILE}"]
    try:
        same = digest(path) == sums[name]
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    return (
        []
        if same
        else [
            f"{name} ({path.stat().st_size} bytes) is not the file that was saved (its digest is "
            f"not that in {SUMS_FILE})"
        ]
    )


def tensor_names(files: list[Path]) -> list[str]:
    """The names in whole safetensors files."""
    names: list[str] = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return names


def weight_problems(files: list[Path], model: nn.Module) -> list[str]:
    """Where the tensors of whole safetensors files are not those of a model: missing, unexpected,
    of another shape or kind of number.
    """
    stored: dict[str, tuple[list[int], str]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                part = file.get_slice(name)
                stored[name] = (list(part.get_shape()), part.get_dtype())
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        wanted = get_peft_model_state_dict(model)
    else:
        wanted = model.state_dict(keep_vars=True)
    # Of tensors that are one (an embedding and the head tied to it), one is saved.
    loaded = {id(wanted[name]) for name in stored if name in wanted}
    missing = [
        name for name, value in wanted.items() if name not in stored and id(value) not in loaded
    ]
    unexpected = [name for name in stored if name not in wanted]
    problems = [f"the weights lack {_some(missing)}"] * bool(missing)
    problems += [f"the weights hold {_some(unexpected)}, which the model does not have"] * bool(
        unexpected
    )
    for name, (shape, kind) in stored.items():
        if name in wanted and shape != list(wanted[name].shape):
            problems.append(
                f"{name} has shape {shape}, and the model's has {list(wanted[name].shape)}"
            )
        elif name in wanted and wanted[name].is_floating_point() != (kind in _FLOATS):
            problems.append(
                f"{name} holds numbers of type {kind}, and the model's are {wanted[name].dtype}"
            )
    return problems


def optimizer_problems(optimizer: torch.optim.Optimizer) -> list[str]:
    """Where a loaded state is not one of the optimizer's own parameters; torch does not look at
    shapes.
    """
    wrong = [
        f"{name} has shape {list(value.shape)}, and its parameter {list(parameter.shape)}"
        for parameter, state in optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape
    ]
    return wrong[:3]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _no_file(path: Path) -> str | None:
    if path.is_file():
        return None
    return f"{path.name} is no file" if path.exists() else f"{path.name} is missing"
