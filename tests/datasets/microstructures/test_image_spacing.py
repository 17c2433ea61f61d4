"""Voxels with unequal edges: what the file says of them, and the layers take for equal, is told."""

import warnings

import numpy as np
import pytest

from graphformer.datasets import Microstructures

tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")

LABELS = np.arange(16, dtype=np.uint16).reshape(4, 4) // 4
VOLUME = np.stack([LABELS, LABELS + 4, LABELS + 8])
OME = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 2.0}
FILES = {
    "resolution.tif": (
        lambda path, labels: tifffile.imwrite(path, labels, resolution=(10, 20)),
        LABELS,
        "0.5 x 1",
    ),
    "imagej.tif": (
        lambda path, labels: tifffile.imwrite(
            path, labels, imagej=True, metadata={"axes": "ZYX", "spacing": 4.0}
        ),
        VOLUME,
        "1 x 0.25 x 0.25",
    ),
    "image.ome.tif": (
        lambda path, labels: tifffile.imwrite(path, labels, metadata=OME),
        LABELS,
        "1 x 0.25",
    ),
    "image.png": (
        lambda path, labels: Image.fromarray(labels.astype(np.uint8)).save(path, dpi=(100, 200)),
        LABELS,
        "0.5 x 1",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_unequal_edges_are_told_unless_spacing_says_them(name, tmp_path):
    write, labels, edges = FILES[name]
    write(tmp_path / name, labels)
    with pytest.warns(UserWarning, match="in doubt"):
        made = Microstructures(tmp_path / name, log=False)
    assert f"{name}: the file says that its voxels have the edges {edges} " in made.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Microstructures(tmp_path / name, log=False, spacing=(1.0,) * labels.ndim).notes


@pytest.mark.parametrize("options", [{}, {"resolution": (72, 72)}, {"metadata": {"axes": "YX"}}])
def test_equal_edges_are_no_doubt(options, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Microstructures(tmp_path / "a.tif", log=False).notes
