"""Which files hold protein structures, and what is in them, whatever packed or edited them."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

STRUCTURE_SUFFIXES = {
    ".pdb": "pdb",
    ".ent": "pdb",
    ".pdbqt": "pdb",
    ".cif": "cif",
    ".mmcif": "cif",
    ".pdbx": "cif",
    ".bcif": "bcif",
}
KNOWN_SUFFIXES = f"{', '.join(STRUCTURE_SUFFIXES)}, .pdb1 (assemblies), each also with .gz"
_ASSEMBLY = re.compile(r"\.pdb\d{1,3}$")
_LINE_END = re.compile("\r\n|\r|\n")
_CIF_START = re.compile(r"(?:\s+|#[^\n]*\n)*data_", re.IGNORECASE)
_PDB_ATOM = re.compile(r"^(?:ATOM|HETATM)\s", re.IGNORECASE | re.MULTILINE)


class UnreadableStructure(Exception):
    """Why a file is left out."""


def structure_kind(path: str | Path) -> str | None:
    """``"pdb"``, ``"cif"`` or ``"bcif"`` by the name of a file, in either case; None for others."""
    name = Path(path).name.lower().removesuffix(".gz")
    return "pdb" if is_assembly(path) else STRUCTURE_SUFFIXES.get(Path(name).suffix)


def is_assembly(path: str | Path) -> bool:
    """Whether it is called as the PDB calls its assemblies, ``1abc.pdb1``: copies of chains stand
    there as models.
    """
    return bool(_ASSEMBLY.search(Path(path).name.lower().removesuffix(".gz")))


def structure_files(source: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """The files by name, see :func:`find_structures`."""
    return find_structures(source)[0]


def find_structures(
    source: str | Path | Sequence[str | Path],
) -> tuple[dict[str, Path], list[str]]:
    """The structure files of a folder, of a file, or of a list of these.

    In a folder files are named by their path from there; those of a list by their name, or their
    path where names are not unique. Hidden files and folders (a leading dot, as of macOS's
    ``._a.pdb``) and ``__MACOSX`` are passed over.

    Returns:
        the files by name, and the names of the other files in the folders, which are not read.

    Raises:
        ValueError: what is no file or folder, a file of another kind, or no files.
    """
    listed = [Path(part) for part in ([source] if isinstance(source, str | Path) else source)]
    for path in listed:
        if not path.exists():
            raise ValueError(
                f"folder: there are no files {KNOWN_SUFFIXES} in {str(path)!r}, which is no folder."
            )
        if not path.is_dir() and structure_kind(path) is None:
            raise ValueError(
                f"folder: {str(path)!r} is no structure by its name; known: {KNOWN_SUFFIXES}."
            )
    inside = {path: _inside(path) for path in listed if path.is_dir()}
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
        raise ValueError(f"folder: there are no files {KNOWN_SUFFIXES} in {places}.")
    return found, others


def is_hidden(path: Path) -> bool:
    """Whether a path, relative to the folder that was named, is passed over."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and not is_hidden(p.relative_to(folder))
    )
    kinds = [structure_kind(path) for path in files]
    pairs = list(zip(files, kinds, strict=True))
    return [f for f, kind in pairs if kind], [f for f, kind in pairs if not kind]


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


def kind_by_content(data: bytes, kind: str) -> str:
    """The kind of a file by what is in it, where that is plain; else ``kind``, by its name."""
    if data[0] >= 0x80 and b"dataBlocks" in data:
        return "bcif"
    text = text_of(data[:1_000_000])
    if _CIF_START.match(text):
        return "cif"
    return "pdb" if _PDB_ATOM.search("\n".join(lines_of(text))) else kind
