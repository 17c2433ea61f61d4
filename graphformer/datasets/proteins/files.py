"""Which files hold protein structures, and what is in them, whatever packed or edited them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from graphformer.datasets.store.reading import UnreadableStructure as UnreadableStructure
from graphformer.datasets.store.reading import content as content
from graphformer.datasets.store.reading import find_files, lines_of, text_of

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
_CIF_START = re.compile(r"(?:\s+|#[^\n]*\n)*data_", re.IGNORECASE)
_PDB_ATOM = re.compile(r"^(?:ATOM|HETATM)\s", re.IGNORECASE | re.MULTILINE)


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
    """The structure files of a folder, of a file, or of a list of these, see
    :func:`~graphformer.datasets.store.reading.find_files`.
    """
    return find_files(source, lambda path: structure_kind(path) is not None, KNOWN_SUFFIXES)


def kind_by_content(data: bytes, kind: str) -> str:
    """The kind of a file by what is in it, where that is plain; else ``kind``, by its name."""
    if data[0] >= 0x80 and b"dataBlocks" in data:
        return "bcif"
    text = text_of(data[:1_000_000])
    if _CIF_START.match(text):
        return "cif"
    return "pdb" if _PDB_ATOM.search("\n".join(lines_of(text))) else kind
