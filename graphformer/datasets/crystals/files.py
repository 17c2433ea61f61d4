"""Which files hold crystals: by their names, and where a name says too little by their content."""

from __future__ import annotations

import re
from pathlib import Path

from graphformer.datasets.store.reading import UnreadableStructure, content, is_core_cif, text_of

SUFFIXES = {".cif": "cif", ".json": "json"}
KNOWN_SUFFIXES = f"{', '.join(SUFFIXES)}, each also with .gz"
_JSON_CELL = re.compile(r'"lattice"\s*:')


def crystal_kind(path: str | Path) -> str | None:
    """``"cif"`` or ``"json"`` by the name of a file, in either case; None for others."""
    return SUFFIXES.get(Path(Path(path).name.lower().removesuffix(".gz")).suffix)


def holds_crystal(path: Path) -> bool:
    """Whether a file is one by its content: ``.cif`` is the suffix of macromolecules too, and
    ``.json`` of anything.
    """
    if crystal_kind(path) != "json":
        return is_core_cif(path)
    try:
        return bool(_JSON_CELL.search(text_of(content(path))))
    except UnreadableStructure:
        return False
