"""Texts, before they are tokens: read, and cut in two. Nothing here imports torch, so a command
tells at once what is wrong with a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark


def embedded_text() -> str:
    """About 450 kB of English that every Python brings: the help topics of ``pydoc``, joined in the
    order of their names.

    The text is the same for each run of one Python version; other versions have other texts.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, with its line ends as they are and without a byte order mark.

    Raises:
        ValueError: no such file, a directory, an empty file, or bytes that are no UTF-8 text; the
            error names the path, the first offending byte (counted from 0) and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"path: there is no file {str(path)!r} (looked in {str(Path.cwd())!r}); give the path "
            "of a text file."
        )
    if not path.is_file():
        raise ValueError(f"path: {str(path)!r} is a directory; give the path of one text file.")
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            f"path: {str(path)!r} is UTF-16 by its byte order mark; convert it first, for example "
            "with: iconv -f utf-16 -t utf-8"
        )
    # it tells the encoding and is no character of the text
    mark = len(_MARK) if data.startswith(_MARK) else 0
    if len(data) == mark:
        raise ValueError(
            f"path: {str(path)!r} is empty; give a text file with at least one window of text."
        )
    if (offset := data.find(b"\0")) >= 0:
        raise ValueError(
            f"path: {str(path)!r} is a binary file: byte {offset} is NUL; give a UTF-8 text file."
        )
    try:
        return data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start + mark
        raise ValueError(
            f"path: {str(path)!r} is no UTF-8 text: byte {place} is 0x{data[place]:02x} "
            f"({error.reason}); convert it first, for example with: iconv -f latin1 -t utf-8"
        ) from None


def split(data: str | Tensor, fraction: float = 0.1) -> tuple[str | Tensor, str | Tensor]:
    """Cut a text or its tokens in two: the first ``1 - fraction`` for training, the last
    ``fraction`` for validation.

    Raises:
        ValueError: a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction must be between 0 and 1 (both excluded), got {fraction}; 0.1 is customary."
        )
    cut = int(len(data) * (1 - fraction))
    return data[:cut], data[cut:]
