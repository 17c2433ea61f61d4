"""Label images as files hold them: axes, colours, palettes, bits, turned and damaged files;
folders; and the targets beside them.
"""

import io
import itertools
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

import graphformer as gf
from graphformer.datasets import Microstructures, grain_graph
from graphformer.datasets.microstructures.images import read_image
from graphformer.training import GraphModel, featuriser_of, prediction_table

tifffile = pytest.importorskip("tifffile", reason="needs the extra microstructure")
Image = pytest.importorskip("PIL.Image", reason="needs the extra microstructure")
SMALL = ("--epochs", "1", "--hidden-size", "8", "--layers", "1", "--heads", "2")
VOLUME = (np.arange(3 * 5 * 7).reshape(3, 5, 7) % 11).astype(np.uint8)  # co-prime sides
PLANE = VOLUME[0]
COLOURS = np.stack([PLANE, PLANE, PLANE], -1)


def pages(path, images, **options):
    with tifffile.TiffWriter(path) as writer:
        for image in images:
            writer.write(image, contiguous=False, **options)


def with_pillow(path):
    first, *others = (Image.fromarray(page) for page in VOLUME)
    first.save(path, save_all=True, append_images=others)


VOLUMES = {
    "page by page": lambda path: pages(path, VOLUME),
    "page by page, without description": lambda path: pages(path, VOLUME, metadata=None),
    "by Pillow": with_pillow,
    "one series": lambda path: tifffile.imwrite(path, VOLUME, photometric="minisblack"),
    "two slices": lambda path: tifffile.imwrite(path, VOLUME[:2], photometric="minisblack"),
    "ImageJ slices": lambda path: tifffile.imwrite(
        path, VOLUME, imagej=True, metadata={"axes": "ZYX"}
    ),
    "OME slices": lambda path: tifffile.imwrite(
        path, VOLUME, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}
    ),
    "OME with axes of one": lambda path: tifffile.imwrite(
        path, VOLUME[None, None], ome=True, photometric="minisblack", metadata={"axes": "TCZYX"}
    ),
    "BigTIFF": lambda path: tifffile.imwrite(path, VOLUME, bigtiff=True, photometric="minisblack"),
    "big endian": lambda path: tifffile.imwrite(
        path, VOLUME.astype(np.uint16), byteorder=">", photometric="minisblack"
    ),
    "deflate": lambda path: tifffile.imwrite(
        path, VOLUME, compression="zlib", photometric="minisblack"
    ),
    "LZW": lambda path: tifffile.imwrite(path, VOLUME, compression="lzw", photometric="minisblack"),
    "tiles": lambda path: tifffile.imwrite(path, VOLUME, tile=(16, 16), photometric="minisblack"),
    "int16": lambda path: tifffile.imwrite(
        path, VOLUME.astype(np.int16) - 3, photometric="minisblack"
    ),
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_volume_is_what_was_written_however_it_was_written(kind, tmp_path):
    VOLUMES[kind](tmp_path / "a.tif")
    written = {"two slices": VOLUME[:2], "int16": VOLUME.astype(np.int16) - 3}.get(kind, VOLUME)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), written)


def test_grains_of_pages_are_those_of_the_volume(tmp_path):
    pages(tmp_path / "a.tif", VOLUME)
    made, expected = Microstructures(tmp_path / "a.tif")[0], grain_graph(VOLUME)
    assert (
        torch.equal(made.x, expected.x)
        and torch.equal(made.edge_index, expected.edge_index)
        and made.pos.shape[1] == 3
    )


PLANES = {
    "palette": lambda path: tifffile.imwrite(
        path,
        PLANE,
        photometric="palette",
        colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 7,
    ),
    "white is zero": lambda path: tifffile.imwrite(path, PLANE, photometric="miniswhite"),
    "a pyramid": lambda path: pyramid(path),
}


def pyramid(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(PLANE, subifds=1)
        writer.write(PLANE[::2, ::2], subfiletype=1)


@pytest.mark.parametrize("kind", PLANES)
def test_a_plane_is_what_is_stored(kind, tmp_path):
    PLANES[kind](tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PLANE)


@pytest.mark.parametrize("compression", [None, "group4"])
def test_one_bit_of_tiff_is_a_map_of_two_phases(compression, tmp_path):
    Image.fromarray(PLANE > 3).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), PLANE > 3)
    with pytest.raises(
        TypeError, match=r"a.tif holds booleans, which are a map of two phases: use kind='phases'"
    ):
        Microstructures(tmp_path / "a.tif")


REFUSED_TIFF = {
    "is a colour image of shape (5, 7, 3) (rgb, axes YXS); save the labels themselves, as one "
    "channel": [
        lambda path: tifffile.imwrite(path, COLOURS, photometric="rgb"),
        lambda path: tifffile.imwrite(path, COLOURS.astype(np.uint16), photometric="rgb"),
    ],
    "is a colour image of shape (3, 5, 7) (rgb, axes SYX)": [
        lambda path: tifffile.imwrite(path, VOLUME, photometric="rgb", planarconfig="separate")
    ],
    "is a colour image of shape (5, 7, 2)": [
        lambda path: tifffile.imwrite(
            path,
            COLOURS[..., :2],
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        )
    ],
    "has the axes CYX of shape (3, 5, 7): channels are no direction in space; save one image or "
    "one volume of labels": [
        lambda path: tifffile.imwrite(path, VOLUME, imagej=True, metadata={"axes": "CYX"}),
        lambda path: tifffile.imwrite(
            path, VOLUME, ome=True, photometric="minisblack", metadata={"axes": "CYX"}
        ),
    ],
    "has the axes TYX of shape (3, 5, 7): points in time are no direction in space": [
        lambda path: tifffile.imwrite(path, VOLUME, imagej=True, metadata={"axes": "TYX"})
    ],
    "has the axes TZYX of shape (2, 3, 5, 7): points in time": [
        lambda path: tifffile.imwrite(
            path, np.stack([VOLUME, VOLUME]), imagej=True, metadata={"axes": "TZYX"}
        )
    ],
    "holds 2 images of different kinds (YX (5, 7) uint8; YX (3, 5) uint8)": [
        lambda path: pages(path, [PLANE, PLANE[:3, :5]])
    ],
    "holds float32 and labels are integers; if its values are whole numbers": [
        lambda path: tifffile.imwrite(path, PLANE.astype(np.float32))
    ],
    "holds complex64 and labels are integers; save the labels themselves": [
        lambda path: tifffile.imwrite(path, PLANE.astype(np.complex64))
    ],
}


@pytest.mark.parametrize(
    ("message", "write"), [(m, w) for m, writers in REFUSED_TIFF.items() for w in writers]
)
def test_axes_that_are_no_space_are_refused_with_the_remedy(message, write, tmp_path):
    write(tmp_path / "a.tif")
    with pytest.raises(ValueError) as told:
        read_image(tmp_path / "a.tif")
    assert str(told.value).startswith(f"{tmp_path / 'a.tif'} {message}")


@pytest.mark.parametrize(
    "write",
    [
        "one series",
        "page by page, without description",
        "by Pillow",
        "deflate",
        "tiles",
        "ImageJ slices",
    ],
)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_tiff_that_is_cut_off_is_never_a_smaller_volume(write, part, tmp_path):
    VOLUMES[write](tmp_path / "a.tif")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(
        ValueError, match=r"a.tif cannot be read \(.+\); put back a whole file, or leave it out."
    ):
        read_image(tmp_path / "a.tif")


def test_an_ome_tiff_whose_slices_are_in_other_files_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", VOLUME, ome=True, photometric="minisblack", metadata={"axes": "ZYX"}
    )
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as opened:
        text = opened.ome_metadata
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        PLANE,
        description=text.encode(),
        metadata=None,
        photometric="minisblack",
    )
    with pytest.raises(
        ValueError, match=r"a.ome.tif (keeps a part of its images in other files|cannot be read)"
    ):
        read_image(tmp_path / "a.ome.tif")


# --- PNG


def grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""
    lines = b""
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_keeps_its_values(bits, tmp_path):
    grey_png(tmp_path / "a.png", PLANE % 2**bits, bits)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PLANE % 2**bits)


def test_palettes_with_transparency_and_16_bits_keep_their_values(tmp_path):
    indexed = Image.fromarray(PLANE)
    indexed.putpalette([255 - i // 3 for i in range(768)])
    indexed.save(tmp_path / "palette.png", transparency=0)
    indexed.save(tmp_path / "four.png", bits=4)
    Image.fromarray(PLANE.astype(np.uint16) + 40000).save(tmp_path / "deep.png")
    Image.fromarray(PLANE).save(tmp_path / "clear.png", transparency=3)
    for name, added in (("palette", 0), ("four", 0), ("deep", 40000), ("clear", 0)):
        np.testing.assert_array_equal(
            read_image(tmp_path / f"{name}.png"), PLANE.astype(int) + added
        )


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            lambda path: Image.fromarray(PLANE).convert("LA").save(path),
            "is grey with transparency of shape (5, 7, 2) (mode LA); save the",
        ),
        (
            lambda path: Image.fromarray(COLOURS).save(path),
            "is a colour image of shape (5, 7, 3) (mode RGB); save the labels themselves",
        ),
        (
            lambda path: Image.fromarray(COLOURS).convert("RGBA").save(path),
            "is a colour image of shape (5, 7, 4) (mode RGBA)",
        ),
        (
            lambda path: Image.fromarray(PLANE).save(
                path, save_all=True, append_images=[Image.fromarray(PLANE + 1)]
            ),
            "has 2 frames; save a volume as TIFF or npy, or one frame alone",
        ),
        (
            lambda path: Image.fromarray(PLANE).save(path, format="JPEG"),
            "is JPEG by its content, whatever its name says",
        ),
        (lambda path: Image.fromarray(PLANE).save(path, format="GIF"), "is GIF by its content"),
    ],
)
def test_colours_frames_and_other_formats_are_refused(save, message, tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError) as told:
        read_image(tmp_path / "a.png")
    assert str(told.value).startswith(f"{tmp_path / 'a.png'} {message}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_marked_as_turned_is_turned(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PLANE).save(tmp_path / "a.png", exif=exif)
    tifffile.imwrite(tmp_path / "a.tif", PLANE, extratags=[(274, 3, 1, orientation, True)])
    tifffile.imwrite(
        tmp_path / "b.tif",
        VOLUME,
        photometric="minisblack",
        extratags=[(274, 3, 1, orientation, True)],
    )
    # what the standard says is row 0 and column 0 of the stored image: (top, left), (top, right),
    # (bottom, right), ...
    turned = {
        1: PLANE,
        2: PLANE[:, ::-1],
        3: PLANE[::-1, ::-1],
        4: PLANE[::-1],
        5: PLANE.T,
        6: np.rot90(PLANE, -1),
    }
    turned |= {7: PLANE[::-1, ::-1].T, 8: np.rot90(PLANE)}
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned[orientation])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), turned[orientation])
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[0], turned[orientation])


# --- arrays


def archive() -> bytes:
    """The bytes of an npz."""
    kept = io.BytesIO()
    np.savez(kept, PLANE)
    return kept.getvalue()


def test_arrays_in_every_order_and_byte_order(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(VOLUME))
    np.save(tmp_path / "b.npy", VOLUME.astype(">i4"))
    np.savez(tmp_path / "c.npz", labels=VOLUME)
    np.savez_compressed(tmp_path / "d.npz", VOLUME)
    for data in Microstructures(tmp_path):
        assert torch.equal(data.x, grain_graph(VOLUME).x) and data.grain.tolist() == list(range(11))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "a.npz",
            lambda p: np.savez(p, a=PLANE, b=PLANE),
            "a.npz holds the arrays a, b, and one array of labels is needed; save it alone",
        ),
        ("a.npz", lambda p: np.savez(p), "a.npz holds no array"),
        ("a.npz", lambda p: p.write_bytes(b"PK"), "a.npz cannot be read"),
        (
            "a.npz",
            lambda p: np.savez(p, np.array([{}], dtype=object)),
            "a.npz cannot be read .*allow_pickle",
        ),
        (
            "a.npy",
            lambda p: p.write_bytes(archive()),
            "a.npy is an npz archive by its content; name it .npz",
        ),
        (
            "a.npy",
            lambda p: np.save(p, np.array(3)),
            r"a.npy has the shape \(\); an image \[n0, n1\] or a volume",
        ),
        (
            "a.npy",
            lambda p: np.save(p, PLANE.astype(complex)),
            "a.npy holds complex128 and labels are integers; save the labels themselves",
        ),
        (
            "a.npy",
            lambda p: np.save(p, PLANE.astype(str)),
            "a.npy holds <U3 and labels are integers",
        ),
        (
            "a.npy",
            lambda p: np.save(p, PLANE + 0.5),
            "a.npy holds float64 and labels are integers; .*np.rint",
        ),
    ],
)
def test_arrays_that_are_no_labels_are_refused(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / name)


def test_labels_that_int64_cannot_hold_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", PLANE.astype(np.uint64) + 2**63)
    with pytest.raises(
        ValueError,
        match=r"a.npy has the label 9223372036854775818, which int64 cannot hold; number the "
        r"grains anew",
    ):
        Microstructures(tmp_path / "a.npy")
    largest = np.array([[2**63 - 1, 5]], dtype=np.uint64)
    assert grain_graph(largest).grain.tolist() == [5, 2**63 - 1]


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        np.save(images / f"s{i}.npy", VOLUME[i])
    return images


def test_hidden_files_do_not_stop_a_folder_and_unread_ones_are_named(folder):
    for name in ("._s0.png", ".DS_Store", "Thumbs.db", "._notes.tif"):
        (folder / name).write_bytes(b"\0\5\26\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Microstructures(folder)
    assert [data.file for data in made] == ["s0.npy", "s1.npy", "s2.npy"] and made.unread == []
    (folder / "s3.jpg").write_bytes(b"")
    (folder / "more").mkdir()
    (folder / "targets.csv").write_text("file,a\ns0,1\ns1,2\ns2,3\n")
    with pytest.warns(
        UserWarning,
        match=r"images: 2 of its files are not read \(more/, s3.jpg\); known suffixes are .png, "
        r".tif",
    ):
        made = Microstructures(folder, targets=folder / "targets.csv")
    assert made.unread == ["more/", "s3.jpg"] and len(made) == 3


def test_tables_may_lie_beside_the_images(folder):
    for i in range(3):
        labels = np.unique(VOLUME[i])
        np.savez(folder / f"s{i}.npz", label=labels, weight=labels * 0.5)
    made = Microstructures(folder, tables=folder)
    assert len(made) == 3 and torch.equal(made[1].x[:, -1], made[1].grain * 0.5)
    with pytest.raises(ValueError, match=r"source names .*s0.npy' twice"):
        Microstructures([folder / "s0.npy", folder / "s0.npy"])
    (folder / "s1.csv").write_text("label,weight\n1,2\n")
    with pytest.raises(ValueError, match=r"there are both s1.csv and s1.npz"):
        Microstructures(folder, tables=folder)


# --- targets


@pytest.mark.parametrize(
    ("text", "missing", "message"),
    [
        ("file,a\ns0,1\ns1,2\n", False, "has no row for s2.npy; add one, or use missing=True"),
        ("file,a\ns0,1\n", False, "has no row for 2 of 3 files: s1.npy, s2.npy"),
        (
            "file,a\ns0,1\ns1,2\ns_2,3\n",
            False,
            r"has no row for s2.npy \(is 's_2' meant for s2.npy\?\)",
        ),
        ("file,a\nt0,1\nx,2\n", True, "has no row for any of the 3 files"),
        (
            "file,a\ns0,1\ns0.npy,2\ns1,3\ns2,4\n",
            True,
            "'s0' and 's0.npy' are both of s0.npy; leave one",
        ),
        ("file\ns0\ns1\ns2\n", True, "has no column beside 'file'; give a column a target"),
        (
            "file,a,a\ns0,1,2\n",
            True,
            "'a.1' has no name of its own; every column is read: name it, or take it out",
        ),
        ("file,a,,b\ns0,1,2,3\n", True, "'column 3' has no name of its own"),
        ("file,a\n,1\n", True, "row 1: the cell 'file' is empty"),
        (
            "file,a\ns0,1e39\ns1,1\ns2,1\n",
            True,
            r"row 1 \(file s0\), column 'a': 1e39 is no value: it is infinite, or beyond float32",
        ),
        (
            "file;a\ns0;1,5\ns1;2\ns2;3\n",
            True,
            r"row 1 \(file s0\), column 'a': '1,5' is no number; write a decimal point, as in 1.5",
        ),
    ],
)
def test_targets_that_do_not_fit_the_files_are_refused_before_any_is_read(
    text, missing, message, folder
):
    (folder / "s1.npy").write_bytes(b"no array: it would be told first if files were read first")
    (folder.parent / "targets.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Microstructures(folder, targets=folder.parent / "targets.csv", missing=missing)


def test_rows_without_a_file_and_files_without_a_row_are_told(folder):
    (folder.parent / "targets.csv").write_text("file,a\ns0,1\nS1.NPY,-\ns_2,3\nother,4\n")
    with pytest.warns(UserWarning) as told:
        made = Microstructures(folder, targets=folder.parent / "targets.csv", missing=True)
    texts = [str(one.message) for one in told]
    assert any(
        "has no row for 1 of 3 files, which have no label: s2.npy (is 's_2' meant for s2.npy?)"
        in text
        for text in texts
    )
    assert (
        any("2 of 4 rows belong to no file: s_2, other" in text for text in texts)
        and len(texts) == 2
    )
    torch.testing.assert_close(
        made.y, torch.tensor([[1.0], [math.nan], [math.nan]]), equal_nan=True
    )


def test_names_that_are_of_two_files_are_refused(folder):
    (folder / "more").mkdir()
    np.save(folder / "more" / "s0.npy", PLANE)
    Image.fromarray(PLANE).save(folder / "s1.png")
    files = [folder / "s0.npy", folder / "more" / "s0.npy"]
    with pytest.raises(
        ValueError,
        match=r"'s0' names .*s0.npy, .*more/s0.npy; write the path or the suffix that tells them "
        r"apart",
    ):
        Microstructures(files, targets={"s0": 1.0}, missing=True)
    made = Microstructures(files, targets={str(files[0]): 1.0, str(files[1]): 2.0})
    assert made.y.tolist() == [[1.0], [2.0]]
    with pytest.raises(ValueError, match=r"'s1' names .*s1.npy, .*s1.png"):
        Microstructures([folder / "s1.npy", folder / "s1.png"], targets={"s1": 1.0}, missing=True)
    with pytest.raises(ValueError, match=r"tables: s1.csv would be of several files"):
        Microstructures([folder / "s1.npy", folder / "s1.png"], tables=folder)
    with pytest.raises(ValueError, match=r"targets: 's0' has \[inf\], which is infinite"):
        Microstructures(files[:1], targets={"s0": math.inf}, missing=True)


def test_a_missing_label_takes_no_other_with_it_from_the_loss(folder):
    """NaN in one column: that prediction has no gradient, the other column and the other graphs
    have that of a loss without it.
    """
    made = Microstructures(
        folder,
        targets={"s0": (1.0, math.nan), "s1": (2.0, 3.0), "s2": (math.nan, math.nan)},
        missing=True,
    )
    net = (
        gf.GraphTransformer(
            made[0].x.shape[1], 2, hidden_size=8, num_layers=1, num_heads=2, out_dim=2
        )
        .double()
        .eval()
    )
    batch = Batch.from_data_list([data.clone() for data in made]).apply(
        lambda t: t.double() if t.is_floating_point() else t
    )
    out = net(batch)
    out.prediction.retain_grad()
    out.loss.backward()
    by_hand = (
        sum(
            (out.prediction[i, j].item() - y) ** 2
            for i, j, y in ((0, 0, 1.0), (1, 0, 2.0), (1, 1, 3.0))
        )
        / 3
    )
    assert out.loss.item() == pytest.approx(by_hand)
    assert (out.prediction.grad != 0).tolist() == [[True, False], [True, True], [False, False]]


def test_rows_of_labels_that_are_not_in_the_image_are_told(folder):
    tables = folder.parent / "tables"
    tables.mkdir()
    np.save(folder / "s0.npy", np.array([[0, 5, 5], [0, 7, 7]]))
    (tables / "s0.csv").write_text("label,weight\n0,1\n5,2\n7.0,3\n9,4\n11,5\n")
    with pytest.warns(
        UserWarning,
        match=r"s0.csv: 2 rows are not read, their labels are not in the image \(9, 11\)",
    ):
        made = Microstructures(folder / "s0.npy", tables=tables, ignore=(0,))
    assert made[0].x[:, -1].tolist() == [2, 3]
    (tables / "s0.csv").write_text("label,weight\n0,1\n5,2\n7,3\n5.0,4\n")
    with pytest.raises(ValueError, match=r"s0.csv: label 5 is there twice; leave one row"):
        Microstructures(folder / "s0.npy", tables=tables)


def test_an_ignored_label_is_named_where_no_image_holds_it(tmp_path):
    for number, image in enumerate(([[0, 5, 5], [0, 7, 7]], [[5, 5, 9], [5, 9, 9]])):
        np.save(tmp_path / f"s{number}.npy", np.array(image))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 0 is in one of them
        made = Microstructures(tmp_path, ignore=(0,))
    assert [one.num_nodes for one in made] == [2, 2]
    with pytest.warns(UserWarning, match=r"ignore=\(0, 4\): no image holds 4, so nothing"):
        Microstructures(tmp_path, ignore=(0, 4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"label": np.arange(3), "a": np.arange(2)},
            r"the column 'a' has the shape \(2,\) and 'label' has \(3,\); give vectors",
        ),
        (
            {"label": np.arange(3), "a": np.zeros(3, complex)},
            "the column 'a' holds complex128, and numbers are needed",
        ),
        ({"a": np.arange(3)}, "has no column 'label'; it has a"),
    ],
)
def test_bad_columns_of_npz_tables_are_named(arrays, message, folder):
    np.savez(folder.parent / "s0.npz", **arrays)
    with pytest.raises(ValueError, match=r"s0.npz:? " + message):
        Microstructures([folder / "s0.npy"], tables=[folder.parent / "s0.npz"])


def test_a_damaged_npz_table_is_named(folder):
    (folder.parent / "s0.npz").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"s0.npz cannot be read"):
        Microstructures([folder / "s0.npy"], tables=[folder.parent / "s0.npz"])


# --- the command line


@pytest.mark.slow
def test_train_and_predict_on_a_folder_with_odd_files(call, refused, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        tifffile.imwrite(images / f"s{i}.tif", rng.integers(0, 5, (7, 11)).astype(np.uint8))
    (images / "._s0.tif").write_bytes(b"\0\5\26\7")
    (images / "notes.txt").write_text("hello")
    table = tmp_path / "targets.csv"
    table.write_text(
        "file,a,b\n"
        + "".join(f"s{i},{i}.5,{'N/A' if i == 2 else i}\n" for i in range(5))
        + "s7,1,2\n"
    )
    arguments = ["train-graphs", "--dataset", images, "--targets", table, *SMALL]
    code, out, err = call(*arguments, "--output", tmp_path / "run")
    assert code == 0, err
    assert "3 graphs to learn from, 1 to validate, 1 to test" in out and "MAE nan" not in out
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert (
        lines[0]
        == f"warning: targets: {table} has no row for 1 of 6 files, which have no label: s5.tif"
    )
    assert lines[1] == f"warning: targets: {table}: 1 of 6 rows belong to no file: s7"
    assert (
        f"warning: {images}: 1 of its files are not read (notes.txt); known suffixes are .png"
        in lines[2]
    )
    assert lines[3:] == ["warning: 1 of 6 graphs have no label and are left out (s5.tif)"]

    code, out, err = call("predict", tmp_path / "run", images)
    rows = [line.split(",") for line in out.splitlines()]
    assert (
        code == 0
        and rows[0] == ["file", "a", "b"]
        and [row[0] for row in rows[1:]] == [f"s{i}.tif" for i in range(6)]
    )
    assert err == f"warning: {images}: 1 of its files are not read (notes.txt)\n"

    table.write_text(table.read_text().replace("1.5", "1,5"))
    assert f"error: {table}, row 2: 4 cells under 3 columns" in refused(
        call(*arguments, "--output", tmp_path / "other")
    )
    tifffile.imwrite(tmp_path / "rgb.tif", COLOURS, photometric="rgb")
    assert "rgb.tif is a colour image" in refused(
        call("predict", tmp_path / "run", tmp_path / "rgb.tif")
    )
    (tmp_path / "none").mkdir()
    assert "there are no images in" in refused(call("predict", tmp_path / "run", tmp_path / "none"))


def test_predictions_of_folders_are_those_of_their_files(folder):
    for i in range(3):  # those of the folder are one graph, numbered in other ways
        np.save(folder / f"s{i}.npy", VOLUME[0] // (i + 1))
    made = Microstructures(folder)
    torch.manual_seed(0)
    net = gf.GraphTransformer(
        made[0].x.shape[1], 2, hidden_size=8, num_layers=1, num_heads=2
    ).eval()
    model = GraphModel(net, featuriser=featuriser_of(made))
    by_folder, by_file = (
        prediction_table(model, [folder]),
        prediction_table(model, sorted(folder.iterdir())),
    )
    assert by_folder == by_file and [row[0] for row in by_folder.rows] == [
        "s0.npy",
        "s1.npy",
        "s2.npy",
    ]
    assert all(abs(a - b) > 1e-4 for a, b in itertools.pairwise(row[1] for row in by_folder.rows))
