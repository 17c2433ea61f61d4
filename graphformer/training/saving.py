"""Files and folders that are there whole or not at all, wherever a process is killed and whenever a
disk is full.

What is new is written into a hidden folder ``.partial`` beside its place, digested, synchronised
with the disk, and renamed. The digests stand beside the files, in ``SHA256SUMS``:
``sha256sum -c SHA256SUMS`` checks them too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUMS_FILE = "SHA256SUMS"
PARTIAL = ".partial"


class SaveError(OSError):
    """Something could not be written. What was whole before is whole still."""


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, of the name of ``target``; it becomes ``target`` where the block ends
    well, and vanishes where not.

    Raises:
        SaveError: it could not be written, as on a full disk.
    """
    with _partial(target) as partial:
        yield partial
        seal(partial)
        # a run that goes on from an older checkpoint writes the later ones again
        if target.exists():
            discard(target)
        os.rename(partial, target)
        _synchronise(target.parent)


@contextmanager
def new_files(folder: Path, what: str = "model") -> Iterator[Path]:
    """A folder to write into; its files move into ``folder`` where the block ends well.

    Digests move first: from then on, a mixture of the files of two saves is told from those of one.

    Raises:
        SaveError: they could not be written, as on a full disk.
    """
    with _partial(folder / what, told=folder) as partial:
        yield partial
        seal(partial)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name != SUMS_FILE, path.name)):
            os.replace(path, folder / path.name)
        _synchronise(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step.

    Raises:
        SaveError: it could not be written, as on a full disk.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        _synchronise(partial)
        os.replace(partial, path)
        _synchronise(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _told(path, error) from error


def seal(folder: Path) -> None:
    """Write the digests of all files of a folder, and synchronise them with the disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")
    for path in (*paths, folder / SUMS_FILE, *{path.parent for path in paths}, folder):
        _synchronise(path)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def discard(folder: Path) -> None:
    """Remove a folder. A process that is killed meanwhile leaves no half of it under its name."""
    hidden = folder.parent / PARTIAL / f"old-{folder.name}"
    hidden.parent.mkdir(exist_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(folder, hidden)
    _remove(hidden)


def is_leftover(path: Path) -> bool:
    """Whether this is what a killed process leaves unfinished."""
    # as earlier versions named it
    return (
        path.name.startswith(".") and path.name.endswith(PARTIAL)
    ) or path.name == "run.json.tmp"


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process has left unfinished in a folder."""
    for path in [path for path in folder.iterdir() if is_leftover(path)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _partial(target: Path, told: Path | None = None) -> Iterator[Path]:
    partial = target.parent / PARTIAL / target.name
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
    except BaseException as error:
        # torch, safetensors and tokenizers each have an error of their own for a full disk:
        # RuntimeError, SafetensorError, Exception.
        if isinstance(error, ValueError | TypeError | SaveError) or not isinstance(
            error, Exception
        ):
            raise
        raise _told(told or target, error) from error
    finally:
        _remove(partial)  # where something is left, the room is needed


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):  # others may be at work beside it
        partial.parent.rmdir()


def _told(path: Path, error: Exception) -> SaveError:
    reason = (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else str(error).strip().splitlines()[0]
    )
    with suppress(OSError):
        reason += f"; {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free there"
    return SaveError(
        f"{str(path)!r} could not be written ({reason}). What was saved before is whole: mend "
        "that, and go on (a run: --resume)."
    )


def _synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(handle)
