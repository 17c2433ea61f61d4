"""The file of a cache: one line of magic, one line of JSON (key and checksum), and the graphs as
``torch.save`` writes them.

A reader serves a file only where the key inside is the one asked for and the checksum is right. A
writer replaces the file in one step, so that it is there whole or not at all, whoever else writes
it and wherever a run is killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAGIC = b"graphformer graphs 1\n"
_PARTS: dict[str, type | tuple[type, ...]] = {
    "data": dict,
    "slices": (dict, type(None)),
    "shared": dict,
    "skipped": list,
}


class Unusable(Exception):
    """Why a cache file is not served."""


def write(path: Path, key: str, kept: dict[str, Any]) -> None:
    """Write what is kept under a key.

    Raises:
        TypeError: an attribute that is no tensor, number, text, or list or dict of these; the error
            names it.
    """
    for part in ("data", "shared"):
        for name, value in kept[part].items():
            _require_plain(name, value)
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    payload = buffer.getbuffer()
    header = {"key": key, "sha256": hashlib.sha256(payload).hexdigest()}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part_path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + json.dumps(header).encode() + b"\n")
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part_path, path)
    finally:
        part_path.unlink(missing_ok=True)


def read(path: Path, key: str) -> dict[str, Any]:
    """What was kept under a key.

    Raises:
        Unusable: another key, a damaged file, none of ours, or a content that is not what
            :func:`write` keeps. Nothing but tensors, numbers and texts is loaded, so that no file
            runs code.
    """
    try:
        with open(path, "rb") as file:
            if file.readline() != _MAGIC:
                raise Unusable("is no cache of this version of the library")
            header, payload = json.loads(file.readline()), file.read()
        if header["key"] != key:
            theirs, ours = json.loads(header["key"]), json.loads(key)
            names = sorted(
                name
                for name in {**theirs, **ours}
                if json.dumps(theirs.get(name)) != json.dumps(ours.get(name))
            )
            raise Unusable(f"was made with other settings ({', '.join(names)})")
        if hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise Unusable("is damaged (its checksum is wrong)")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"is damaged ({error})") from None
    try:
        kept = torch.load(io.BytesIO(payload), weights_only=True)
    except Exception as error:  # whatever a pickle raises that is cut short, or asks for code
        raise Unusable(f"cannot be read ({type(error).__name__})") from None
    if not isinstance(kept, dict):
        raise Unusable("holds no graphs")
    for name, kind in _PARTS.items():
        if not isinstance(kept.get(name), kind):
            raise Unusable(f"holds no graphs (its {name} is a {type(kept.get(name)).__name__})")
    return kept


def require_writable(folder: Path) -> None:
    """Make a folder, and try it before hours of work are lost.

    Raises:
        ValueError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"root: {str(folder)!r} cannot be written to ({error.strerror}); give a folder of your "
            "own, or root=None to keep the graphs in memory."
        ) from None


def _require_plain(name: str, value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _require_plain(name, item)
    elif not (value is None or isinstance(value, Tensor | str | int | float)):
        raise TypeError(
            f"the attribute {name!r} holds a {type(value).__qualname__}, which the cache does not "
            "keep; use tensors, numbers, text, and lists and dicts of these, or root=None."
        )
