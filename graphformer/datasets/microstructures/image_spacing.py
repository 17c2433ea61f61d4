"""The edges of a voxel as an image file tells them: whether voxels are squares or cubes, the array
alone does not show.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from graphformer.errors import require

SAME = 0.01
"""Edges that differ by a smaller part of themselves are equal."""
_SIZE = re.compile(r'PhysicalSize([XYZ])(Unit)?="([^"]*)"')


def uneven_voxels(path: Path) -> tuple[float, ...] | None:
    """The edges along the axes of the array that :func:`read_image` gives, those the file tells of,
    from the last axis backwards; None where it tells none, or equal ones.
    """
    try:
        found = _told(path)
    except (ValueError, TypeError, ArithmeticError):  # the image itself was read
        return None
    if len(found) < 2 or not all(0 < edge < float("inf") for edge in found):
        return None
    return tuple(found) if max(found) > (1 + SAME) * min(found) else None


def _told(path: Path) -> list[float]:
    if path.suffix.lower() == ".png":
        image = require("PIL.Image", extra="microstructure", why="reading PNG")
        with image.open(path) as opened:
            per_unit = opened.info.get("dpi") or opened.info.get("aspect") or ()
        return _edges(per_unit[::-1])
    if path.suffix.lower() not in (".tif", ".tiff"):
        return []
    tifffile = require("tifffile", extra="microstructure", why="reading TIFF")
    with tifffile.TiffFile(path) as opened:
        sizes = _SIZE.findall(opened.ome_metadata or "")
        if sizes:  # in one unit, or they cannot be compared here
            units = {unit for _, is_unit, unit in sizes if is_unit}
            edges = {axis: float(size) for axis, is_unit, size in sizes if not is_unit}
            return [edges[axis] for axis in "ZYX" if axis in edges] if len(units) < 2 else []
        tags = opened.pages[0].tags
        pair = [tags[name].value for name in ("YResolution", "XResolution") if name in tags]
        edges_of_plane = _edges([top / bottom for top, bottom in pair if bottom])
        orientation: Any = tags["Orientation"].value if "Orientation" in tags else 1
        depth = (opened.imagej_metadata or {}).get("spacing")
    if int(orientation) > 4:  # columns and rows change places
        edges_of_plane.reverse()
    return [float(depth), *edges_of_plane] if depth and len(edges_of_plane) == 2 else edges_of_plane


def _edges(per_unit: Any) -> list[float]:
    """From points a unit of length."""
    return [1 / float(count) for count in per_unit if float(count) > 0]
