"""Raw files: taken from a folder, or downloaded; checked against their SHA-256 either way."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

_BLOCK = 1 << 20


class DownloadError(OSError):
    """A file could not be downloaded whole. The text names the address and what to do."""


@dataclass(frozen=True)
class RawFile:
    """A file that a data set is made from.

    Args:
        name: its name in the raw folder; "part/a.csv" lies in a folder there.
        sha256: its checksum, in hexadecimal.
        url: a stable public address (a fixed commit or record, not a branch), or None where there
            is none.
    """

    name: str
    sha256: str
    url: str | None = None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check(path: str | Path, expected: RawFile) -> Path:
    """The path, if the file there has the expected checksum.

    Raises:
        ValueError: it has another; the error names the file, both checksums and the remedy.
    """
    path = Path(path)
    if (found := sha256(path)) != expected.sha256:
        source = f"; it comes from {expected.url}" if expected.url else ""
        raise ValueError(
            f"{path} is damaged or of another version: its SHA-256 is {found} and "
            f"{expected.sha256} is expected. Remove it or put the right file there{source}."
        )
    return path


def find(
    file: RawFile, raw: str | Path | None, own: Path | None, data_folder: str, *, log: bool = True
) -> Path:
    """Where a raw file is, with its checksum verified; it is downloaded where it is nowhere.

    Args:
        file: the file.
        raw: the one folder to look in; None looks in the others.
        own: the data set's own folder, which comes first and takes the download; None where it has
            none.
        data_folder: looked in after that, inside the folder that the environment variable
            GRAPHFORMER_DATA names.
        log: show the download's progress (on a terminal).

    Raises:
        ValueError: ``raw`` lacks the file; the file has another checksum; or there is no folder to
            download it to.
        DownloadError: the file could not be downloaded.
    """
    if raw is not None:
        if not (path := Path(raw) / file.name).is_file():
            raise ValueError(
                f"raw: there is no {file.name} in {str(raw)!r}; it comes from "
                f"{file.url or 'its authors'}."
            )
        return check(path, file)
    common = os.environ.get("GRAPHFORMER_DATA")
    for place in (own, Path(common) / data_folder if common else None):
        if place is not None and (place / file.name).is_file():
            return check(place / file.name, file)
    if own is None:
        raise ValueError(
            f"raw: {file.name} is needed; name the folder that has it, or a root, where it can be "
            "downloaded to."
        )
    return download(file, own, log=log)


def download(file: RawFile, folder: str | Path, *, log: bool = True, timeout: float = 60.0) -> Path:
    """Download a file into a folder. It appears under its name only when it is whole and its
    checksum is right.

    Raises:
        DownloadError: no address, no connection, fewer bytes than announced, or another checksum.
            Nothing is left behind.
    """
    target = Path(folder) / file.name
    remedy = f"Try again, or put {file.name} into {folder} by hand"
    if file.url is None:
        raise DownloadError(
            f"there is no public address for {file.name}; put it into {folder} by hand."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    part = Path(name)
    try:
        digest, received = hashlib.sha256(), 0
        with (
            os.fdopen(handle, "wb") as out,
            urllib.request.urlopen(file.url, timeout=timeout) as answer,
        ):
            announced = int(answer.headers.get("Content-Length") or 0)
            with tqdm(
                total=announced or None,
                unit="B",
                unit_scale=True,
                desc=file.name,
                disable=None if log else True,
            ) as bar:
                while block := answer.read(_BLOCK):
                    out.write(block)
                    digest.update(block)
                    received += len(block)
                    bar.update(len(block))
        if announced and received != announced:
            raise DownloadError(
                f"{file.url}: the download broke off after {received} of {announced} bytes. "
                f"{remedy}."
            )
        if digest.hexdigest() != file.sha256:
            raise DownloadError(
                f"{file.url}: the {received} bytes received have the SHA-256 {digest.hexdigest()} "
                f"and {file.sha256} is expected: the download is damaged or the file at this "
                f"address has changed. {remedy}."
            )
        os.replace(part, target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(f"{file.url}: cannot be downloaded ({error}). {remedy}.") from error
    finally:
        part.unlink(missing_ok=True)
    return target
