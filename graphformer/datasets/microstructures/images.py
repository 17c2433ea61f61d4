"""Label images and voxel volumes, read from files as they are: what an axis is, is told by the file
and never guessed from a shape.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphformer.errors import MissingExtra, require

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")
_AXES = {
    "C": "channels",
    "S": "samples of a colour",
    "T": "points in time",
    "P": "phases",
    "R": "rounds",
    "L": "exposures",
    "H": "lifetimes",
}
# depth; a sequence of images; what the file leaves open, as pages that are written one by one
_DEPTH = "ZIQ"
_TURNED = {2: "fh", 3: "fhv", 4: "fv", 5: "t", 6: "tfh", 7: "tfhv", 8: "tfv"}


def image_files(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """The images of a folder in the order of their names, and what else is in it.

    Hidden files, as the ``._a.png`` of macOS, are neither.
    """
    seen = sorted(
        path
        for path in Path(folder).iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _LITTER
    )
    images = [path for path in seen if path.suffix.lower() in SUFFIXES and path.is_file()]
    return images, [path for path in seen if path not in images]


def read_image(path: str | Path) -> np.ndarray:
    """The labels in an image or a volume, as the file holds them.

    - **PNG**: one channel. A palette image gives its indices, not the colours; grey of 1, 2 and 4
      bits gives 0 to 1, 3 or 15.
    - **TIFF**: one series of one channel, YX or a volume: slices (Z), a sequence of pages, or an
      axis that the file leaves without a name. Channels and points in time are no axes of space and
      are refused. Pages of one size and kind, written one by one, are a volume. Values are as
      stored, also of palettes and where white is zero; the first level of a pyramid is read.
    - **npy**, **npz** with one array: what is in it; no pickles.

    An image that a camera or a scanner marked as turned (the tag Orientation) is turned.

    Raises:
        ValueError: no such file, another suffix, a file that is damaged or cut off, several images,
            colours, floats, or neither two nor three axes; the error names the file and the remedy.
        MissingExtra: PNG and TIFF need Pillow and tifffile, which the extra ``microstructure``
            brings.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}.")
    try:
        image = {".png": _png, ".npy": _npy, ".npz": _npz}.get(kind, _tiff)(path)
    except (MissingExtra, _Refused):
        raise
    except Exception as error:  # each decoder has errors of its own
        told, remedy = (
            f"{type(error).__name__}: {error}".rstrip("."),
            "put back a whole file, or leave it out",
        )
        if "imagecodecs" in told:
            remedy = (
                "install it with pip install 'graphformer[microstructure]', or save the file "
                "without compression"
            )
        elif "DecompressionBomb" in told:
            remedy = "save an image of this size as TIFF or npy"
        raise ValueError(f"{path} cannot be read ({told}); {remedy}.") from error
    if image.dtype.kind not in "iub":
        remedy = (
            "save them with np.save(path, np.rint(image).astype(int)), and segment a grey image "
            "first"
        )
        remedy = (
            f"if its values are whole numbers, {remedy}"
            if image.dtype.kind == "f"
            else "save the labels themselves"
        )
        raise ValueError(f"{path} holds {image.dtype} and labels are integers; {remedy}.")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(
            f"{path} has the shape {image.shape}; an image [n0, n1] or a volume [n0, n1, n2] is "
            "needed."
        )
    return image


class _Refused(ValueError):
    """A whole file that holds something else than labels."""


def _npy(path: Path) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        found.close()
        raise _Refused(f"{path} is an npz archive by its content; name it .npz.")
    return found


def _npz(path: Path) -> np.ndarray:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no npz archive")
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if len(names) != 1:
            what = f"the arrays {', '.join(names)}" if names else "no array"
            raise _Refused(
                f"{path} holds {what}, and one array of labels is needed; save it alone, and "
                "tables in another folder."
            )
        return arrays[names[0]]


def _png(path: Path) -> np.ndarray:
    pillow = require("PIL.Image", extra="microstructure", why="reading PNG")
    turn = require("PIL.ImageOps", extra="microstructure", why="reading PNG").exif_transpose
    with path.open("rb") as file:
        start = file.read(26)
    with pillow.open(path) as opened:
        if opened.format != "PNG":
            remedy = "save the labels as PNG, TIFF or npy"
            raise _Refused(
                f"{path} is {opened.format} by its content, whatever its name says, and may have "
                f"lost labels; {remedy}."
            )
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            raise _Refused(
                f"{path} has {frames} frames; save a volume as TIFF or npy, or one frame alone."
            )
        opened.load()
        if opened.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"):
            shape = (opened.height, opened.width, len(opened.getbands()))
            what = "grey with transparency" if opened.mode in ("LA", "PA") else "a colour image"
            raise _Refused(
                f"{path} is {what} of shape {shape} (mode {opened.mode}); save the labels "
                "themselves, as one channel or as .npy."
            )
        image = np.asarray(turn(opened))
    if start[25] == 0 and start[24] in (2, 4):  # Pillow stretches grey of 2 and 4 bits to 0..255
        image = image // (85 if start[24] == 2 else 17)
    return image


def _tiff(path: Path) -> np.ndarray:
    tifffile = require("tifffile", extra="microstructure", why="reading TIFF")
    with _complaints(path), tifffile.TiffFile(path) as opened:
        series = list(opened.series)
        if not series:
            raise ValueError("it has no image")
        for one in series:
            if any(page is None or page.parent is not opened for page in one.pages):
                raise _Refused(
                    f"{path} keeps a part of its images in other files; save it as one file."
                )
        axes, shape = series[0].axes, series[0].shape
        pages = [page.keyframe for one in series for page in one.pages]
        colours = {getattr(page.photometric, "name", str(page.photometric)) for page in pages}
        if (
            {page.samplesperpixel for page in pages} != {1}
            or "S" in axes
            or colours - {"MINISBLACK", "MINISWHITE", "PALETTE"}
        ):
            names = " or ".join(sorted(colours)).lower()
            raise _Refused(
                f"{path} is a colour image of shape {shape} ({names}, axes {axes}); save the "
                "labels themselves, as one channel, and a volume with photometric='minisblack'."
            )
        if len(series) > 1 and not (
            set(axes) == {"Y", "X"}
            and len({(one.axes, one.shape, one.dtype) for one in series}) == 1
        ):
            what = "; ".join(f"{one.axes} {one.shape} {one.dtype}" for one in series[:4])
            raise _Refused(
                f"{path} holds {len(series)} images of different kinds ({what}); save the one with "
                "the labels alone."
            )
        if not set("YX") <= set(axes) <= set("YX" + _DEPTH) or len(axes) > 3:
            strange = [
                _AXES.get(axis, f"axis {axis}") for axis in axes if axis not in "YX" + _DEPTH
            ]
            what = (
                f"{strange[0]} are no direction in space" if strange else "a volume has three axes"
            )
            raise _Refused(
                f"{path} has the axes {axes} of shape {shape}: {what}; save one image or one "
                "volume of labels."
            )
        image = (
            np.stack([one.asarray() for one in series]) if len(series) > 1 else series[0].asarray()
        )
        tag = opened.pages[0].tags.get("Orientation")
        names = "".join("I" * (len(series) > 1) + axes)
    return _turned(image, names, int(tag.value) if tag is not None else 1)


def _turned(image: np.ndarray, axes: str, orientation: int) -> np.ndarray:
    """The image as TIFF's tag Orientation wants it shown: row 0 at the top, column 0 at the
    left.
    """
    vertical, horizontal = axes.index("Y"), axes.index("X")
    steps = _TURNED.get(orientation, "")
    if "t" in steps:
        image = image.swapaxes(vertical, horizontal)
    flipped = [axis for letter, axis in (("v", vertical), ("h", horizontal)) if letter in steps]
    return np.flip(image, tuple(flipped)) if flipped else image


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """tifffile reports what lacks in its log and goes on with zeros, or without the page; here that
    is an error.
    """
    told: list[str] = []
    handler = _Kept(told)
    log = logging.getLogger("tifffile")
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
    if told:
        raise ValueError(told[0])


class _Kept(logging.Handler):
    def __init__(self, told: list[str]):
        super().__init__(logging.WARNING)
        self.told = told

    def emit(self, record: Any) -> None:
        if record.levelno < logging.ERROR and not re.search(
            "zeroed|missing|incomplete|corrupt", record.getMessage()
        ):
            return  # it minds some tag that is not read here
        self.told.append(re.sub(r"<tifffile\.\w+ [^>]*> ", "", record.getMessage()))
