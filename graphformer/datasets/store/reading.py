"""Files of structures as text, whatever packed or edited them, and why one is left out."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from graphformer.datasets.store.download import sha256

_CORE_CIF = re.compile(r"^\s*_(cell_length_a|atom_site_fract_x)\b", re.IGNORECASE | re.MULTILINE)
_LINE_END = re.compile("\r\n|\r|\n")


class UnreadableStructure(Exception):
    """Why a file is left out."""


def find_files(
    source: str | Path | Sequence[str | Path], known: Callable[[Path], bool], suffixes: str
) -> tuple[dict[str, Path], list[str]]:
    """The files of a folder, a file, or a list of these, that are ``known`` by their name.

    In a folder files are named by their path from there; those of a list by their name, or their
    path where names are not unique. Hidden files and folders (a leading dot, as of macOS's
    ``._a.pdb``) and ``__MACOSX`` are passed over.

    Args:
        suffixes: what these files are called, in errors.

    Returns:
        the files by name, and the names of the other files in the folders, which are not read.

    Raises:
        ValueError: what is no file or folder, a file of another kind, or no files.
    """
    listed = [Path(part) for part in ([source] if isinstance(source, str | Path) else source)]
    for path in listed:
        if not path.exists():
            raise ValueError(
                f"folder: there are no files {suffixes} in {str(path)!r}, which is no folder."
            )
        if not path.is_dir() and not known(path):
            raise ValueError(
                f"folder: {str(path)!r} is no structure by its name; known: {suffixes}."
            )
    inside = {path: _inside(path, known) for path in listed if path.is_dir()}
    if len(listed) == 1 and listed[0] in inside:
        found = {path.relative_to(listed[0]).as_posix(): path for path in inside[listed[0]][0]}
    else:
        paths = [
            file for path in listed for file in (inside[path][0] if path in inside else [path])
        ]
        paths = list(dict.fromkeys(paths))  # a file that is named twice is read once
        unique = len({path.name for path in paths}) == len(paths)
        found = {path.name if unique else path.as_posix(): path for path in paths}
    others = [
        file.relative_to(folder).as_posix() for folder, parts in inside.items() for file in parts[1]
    ]
    if not found:
        places = ", ".join(map(repr, map(str, listed))) or "an empty list"
        raise ValueError(f"folder: there are no files {suffixes} in {places}.")
    return found, others


def _inside(folder: Path, known: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and not is_hidden(p.relative_to(folder))
    )
    return [p for p in files if known(p)], [p for p in files if not known(p)]


def checksum(path: Path) -> str:
    """Of a file that cannot be opened the reason: it is left out, and read once it can be."""
    try:
        return sha256(path)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"


def is_hidden(path: Path) -> bool:
    """Whether a path, relative to the folder that was named, is passed over."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def content(path: Path) -> bytes:
    """The bytes of a file, unpacked where they are gzip's, whatever the file is called.

    Raises:
        UnreadableStructure: it cannot be opened, is empty, or its gzip stream is not whole.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableStructure(
            f"cannot be read (its gzip stream is damaged: {error})"
        ) from error
    except OSError as error:
        raise UnreadableStructure(f"cannot be read ({error.strerror or error})") from error
    if not data.strip():
        raise UnreadableStructure("cannot be read (it is empty)")
    return data


def text_of(data: bytes) -> str:
    """Text in UTF-8, UTF-16 with its mark, or else Latin-1, in which every byte is a letter."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def lines_of(text: str) -> list[str]:
    """Lines with the ends of Unix, Windows and old Macs; ``str.splitlines`` takes Latin-1's \\x85
    too.
    """
    return _LINE_END.split(text)


def is_core_cif(path: Path) -> bool:
    """Whether a file is CIF of a crystal by its content: macromolecules' has the suffix, too."""
    if not path.name.lower().removesuffix(".gz").endswith(".cif"):
        return False
    try:
        return bool(_CORE_CIF.search(text_of(content(path))))
    except UnreadableStructure:
        return False
