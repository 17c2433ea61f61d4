"""Grain graphs from label images: by hand, against scikit-image, under relabelling and shifts;
files that are read or refused by name.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from graphformer.datasets import Microstructures, grain_graph, region_graph, regions, voronoi_cells

LABELS = np.array([[5, 5, 7], [5, 9, 7], [9, 9, 7], [9, 9, 9]])


def cells(shape: tuple[int, ...], number: int, seed: int = 0) -> np.ndarray:
    """Labels on a grid of co-prime sides: the nearest of random seeds, not periodic."""
    rng = np.random.default_rng(seed)
    seeds = rng.random((number, len(shape))) * shape
    places = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in shape], indexing="ij"), -1)
    return np.linalg.norm(places[..., None, :] - seeds, axis=-1).argmin(-1)


def assert_isomorphic(a, b, old_to_new: dict[int, int], exact: bool = True) -> None:
    """The graphs are the same after nodes are matched by their label."""
    where = {int(grain): i for i, grain in enumerate(b.grain)}
    match = torch.tensor([where[old_to_new[int(grain)]] for grain in a.grain])
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(b.x[match], a.x, **tolerance)
    edges_a = {
        tuple(match[pair].tolist()): attr
        for pair, attr in zip(a.edge_index.T, a.edge_attr, strict=True)
    }
    edges_b = {
        tuple(pair.tolist()): attr for pair, attr in zip(b.edge_index.T, b.edge_attr, strict=True)
    }
    assert edges_a.keys() == edges_b.keys()
    for pair, attr in edges_a.items():
        torch.testing.assert_close(edges_b[pair], attr, **tolerance)


# --- grains


def test_a_graph_by_hand():
    data = grain_graph(LABELS)
    assert data.grain.tolist() == [5, 7, 9] and data.x[:, 0].tolist() == [3, 3, 6]
    assert data.edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    # 5 and 7 share one face, 5 and 9 one across each axis, 7 and 9 one across axis 0 and two across
    # axis 1
    across = {(0, 1): 1.0, (0, 2): math.sqrt(2**2 + 1), (1, 2): math.sqrt(1 + 2**2)}
    for sender, receiver, attr in zip(*data.edge_index.tolist(), data.edge_attr, strict=True):
        torch.testing.assert_close(
            attr[0].item(), across[min(sender, receiver), max(sender, receiver)]
        )
    torch.testing.assert_close(data.pos[1], torch.tensor([1.5, 2.5]))
    # 7 is a bar of 3 x 1 voxels: an ellipse of its second moments has axes 2 sqrt(4 l), l = side^2
    # / 12
    torch.testing.assert_close(
        data.x[1, 1:3], torch.tensor([4 * 3 / math.sqrt(12), 4 / math.sqrt(12)])
    )
    torch.testing.assert_close(data.x[1, 3:], torch.tensor([math.sqrt(8 / 9), 1.0]))


def test_directions_by_hand():
    labels = np.array([[0, 0, 0, 1]])
    data = grain_graph(labels, directions=True)
    torch.testing.assert_close(
        data.edge_attr, torch.tensor([[1.0, 2.0, 0.0, 1.0], [1.0, 2.0, 0.0, -1.0]])
    )
    torch.testing.assert_close(data.x[0, -3:], torch.tensor([0.1, 0.0, 0.9]))


@pytest.mark.parametrize("shape", [(23, 31), (7, 11, 13)])
def test_shapes_agree_with_scikit_image(shape):
    measure = pytest.importorskip("skimage.measure", reason="needs the extra microstructure")
    labels = cells(shape, 11) + 1
    data, props = grain_graph(labels), measure.regionprops(labels)
    assert data.grain.tolist() == [p.label for p in props]
    np.testing.assert_allclose(data.x[:, 0], [p.area for p in props])
    np.testing.assert_allclose(data.x[:, -1], [p.extent for p in props], rtol=1e-6)
    np.testing.assert_allclose(data.pos, [np.add(p.centroid, 0.5) for p in props], rtol=1e-5)
    # Ours gives voxels a width: each second moment is larger by 1/12.
    dim = len(shape)
    width = 4 * (dim + 2) / 12
    np.testing.assert_allclose(
        data.x[:, 1] ** 2 - width, [p.axis_major_length**2 for p in props], rtol=1e-4
    )
    np.testing.assert_allclose(
        data.x[:, dim] ** 2 - width, [p.axis_minor_length**2 for p in props], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("slope", [0, 1, 2, 0.5])
def test_flat_boundaries_have_their_length_in_every_direction(slope):
    n = 200
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    labels = (i + 0.5 > slope * (j + 0.5) + (n / 2 if slope == 0 else 0)).astype(int)
    run = n if slope <= 1 else n / slope
    found = grain_graph(labels).edge_attr[0, 0].item()
    assert abs(found / (run * math.sqrt(1 + slope**2)) - 1) < 0.02


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(
    ("shape", "directions"), [((11, 17), True), ((5, 7, 11), False), ((1, 13), False)]
)
def test_new_labels_give_the_same_graph_in_another_order(shape, directions, periodic):
    labels = cells(shape, 7)
    new = np.random.default_rng(1).permutation(100)[:7] - 50  # negative labels are labels too
    before = grain_graph(labels, periodic=periodic, directions=directions)
    after = grain_graph(new[labels], periodic=periodic, directions=directions)
    assert_isomorphic(before, after, dict(enumerate(new.tolist())))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_shifted_periodic_cell_is_the_same_graph(dim):
    labels = voronoi_cells(np.random.default_rng(2).random((11, dim)), 15)
    shifted = np.roll(labels, (4, 7, 2)[:dim], axis=tuple(range(dim)))
    before, after = (
        grain_graph(labels, periodic=True, directions=True),
        grain_graph(shifted, periodic=True, directions=True),
    )
    assert_isomorphic(before, after, {int(g): int(g) for g in before.grain}, exact=False)
    moved = (after.pos - before.pos - torch.tensor([4.0, 7.0, 2.0][:dim])) / 15
    torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-5)


def test_the_far_side_is_a_neighbour_only_in_periodic_cells():
    labels = np.repeat([[0, 1, 2, 3]], 3, axis=0)
    assert grain_graph(labels).num_edges == 6 and grain_graph(labels, periodic=True).num_edges == 8
    wrapped = grain_graph(np.array([[0, 1, 1, 0]]), periodic=True)
    torch.testing.assert_close(wrapped.x[0], wrapped.x[1])  # put together again, 0 is a bar like 1
    torch.testing.assert_close(wrapped.edge_attr, torch.tensor([[2.0, 2.0], [2.0, 2.0]]))


def test_spacing_and_relative_units():
    labels = cells((11, 13), 5)
    plain, scaled = grain_graph(labels), grain_graph(labels, spacing=0.5)
    torch.testing.assert_close(scaled.x[:, 0], plain.x[:, 0] / 4)
    torch.testing.assert_close(scaled.x[:, 1:3], plain.x[:, 1:3] / 2)
    torch.testing.assert_close(scaled.edge_attr, plain.edge_attr / 2)
    torch.testing.assert_close(scaled.pos, plain.pos / 2)
    a, b = grain_graph(labels, relative=True), grain_graph(labels, spacing=0.1, relative=True)
    torch.testing.assert_close(a.x, b.x)
    torch.testing.assert_close(a.edge_attr, b.edge_attr)
    torch.testing.assert_close(a.x[:, 0].mean(), torch.tensor(1.0))
    # Voxels twice as long along axis 0 are two voxels.
    stretched, doubled = (
        grain_graph(labels, spacing=(2.0, 1.0)),
        grain_graph(np.repeat(labels, 2, axis=0)),
    )
    torch.testing.assert_close(stretched.x, doubled.x)
    torch.testing.assert_close(stretched.edge_attr, doubled.edge_attr)


def test_ignored_labels_are_no_grains():
    data = grain_graph(
        np.array([[1, 0, 2], [1, 0, 2], [1, 3, 3]]), np.arange(6.0).reshape(3, 2), ignore=(0,)
    )
    assert data.grain.tolist() == [1, 2, 3] and data.edge_index.tolist() == [
        [0, 1, 2, 2],
        [2, 2, 0, 1],
    ]
    assert data.x[:, -2:].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_an_ignored_label_that_is_not_there_is_named():
    with pytest.warns(UserWarning, match=r"ignore=\(0, 8\): labels does not hold 0, 8, so nothing"):
        data = grain_graph(LABELS, ignore=(0, 8))
    torch.testing.assert_close(data.x, grain_graph(LABELS).x)


def test_ignored_phases_are_no_regions():
    phases = np.array([[0, 1, 1, 0], [0, 1, 2, 2], [0, 1, 2, 2]])
    data = region_graph(phases, (0, 1, 2, 3), ignore=(1,))
    assert data.x[:, -4:].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    # the right 0 and the 2 below it touch; the left 0 touched the 1 alone
    assert data.edge_index.tolist() == [[1, 2], [2, 1]]
    with pytest.warns(UserWarning, match=r"ignore=\(3,\): phases does not hold 3"):
        assert region_graph(phases, (0, 1, 2, 3), ignore=(3,)).num_nodes == 4
    with pytest.raises(ValueError, match=r"no region is left beside the ignored phases \(0, 1\)"):
        region_graph(phases[:, :2], (0, 1), ignore=(0, 1))


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (2, 3, 5)])
@pytest.mark.parametrize("periodic", [False, True])
def test_one_grain_has_no_edges(shape, periodic):
    data = grain_graph(np.full(shape, 4), periodic=periodic, directions=True)
    assert (
        data.num_nodes == 1
        and data.edge_index.shape == (2, 0)
        and data.edge_attr.shape == (0, 2 + len(shape))
    )
    assert torch.isfinite(data.x).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (np.ones((3, 5)),),
            TypeError,
            r"labels must hold integers, one label a grain, got float64; .*np.rint",
        ),
        ((np.ones(3, dtype=int),), ValueError, r"must be an image \[n0, n1\] or a volume"),
        ((np.ones((0, 3), dtype=int),), ValueError, "at least one voxel"),
        (
            (LABELS, np.ones((2, 1))),
            ValueError,
            r"properties must be \[3, P\], a row a grain, got shape \(2, 1\)",
        ),
    ],
)
def test_bad_labels_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        grain_graph(*arguments)


def test_nothing_left_and_bad_spacing():
    with pytest.raises(ValueError, match="no grain is left beside the ignored labels"):
        grain_graph(LABELS, ignore=(5, 7, 9))
    with pytest.raises(ValueError, match="spacing must be positive"):
        grain_graph(LABELS, spacing=0.0)


# --- regions of phases


def test_regions_agree_with_scipy():
    from scipy.ndimage import label

    phases = np.random.default_rng(0).integers(0, 3, (17, 23))
    found = regions(phases)
    for value in range(3):
        expected, number = label(phases == value)
        pairs = {
            (a, b) for a, b in zip(expected[phases == value], found[phases == value], strict=True)
        }
        assert len(pairs) == number == len({b for _, b in pairs})
    first = np.unique(found, return_index=True)[1]
    assert (np.diff(first) > 0).all()


def test_regions_go_on_across_a_periodic_edge():
    phases = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=bool)
    assert regions(phases).max() + 1 == 5 and regions(phases, periodic=True).max() + 1 == 2
    data = region_graph(phases, (0, 1), periodic=True)
    assert data.x[:, 0].tolist() == [4, 5] and data.x[:, -2:].tolist() == [[0, 1], [1, 0]]


def test_regions_are_joined_across_phases_only():
    data = region_graph(np.random.default_rng(1).integers(0, 2, (7, 11)), (0, 1))
    own = data.x[:, -2:].argmax(1)
    assert (own[data.edge_index[0]] != own[data.edge_index[1]]).all()


def test_unknown_phases_are_named():
    with pytest.raises(
        ValueError,
        match=r"phases has the value 255, which is none of the phases \(0, 1\); it holds 0, 255. "
        r"Give phases",
    ):
        region_graph(np.array([[0, 255]]), (0, 1))


# --- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(3):
        np.save(tmp_path / "images" / f"s{i}.npy", cells((11, 13), 3 + 2 * i, i))
    return tmp_path / "images"


def test_a_folder_of_images(folder):
    made = Microstructures(folder, targets={"s0": 1.0, "s1.npy": 2.0, "s2": 3.0})
    assert [data.file for data in made] == ["s0.npy", "s1.npy", "s2.npy"] and [
        data.y.tolist() for data in made
    ] == [
        [[1.0]],
        [[2.0]],
        [[3.0]],
    ]
    assert (
        made.node_names == ("size", "major_axis", "minor_axis", "eccentricity", "extent")
        and made.num_node_features == 5
    )
    np.testing.assert_array_equal(made[1].x, grain_graph(np.load(folder / "s1.npy")).x)


def test_png_and_tiff_hold_what_was_written(tmp_path):
    """8 and 16 bits, palettes (their indices), one bit, and volumes."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra microstructure")
    tifffile = pytest.importorskip("tifffile", reason="needs the extra microstructure")
    labels = cells((11, 13), 7)
    image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.png")
    image.fromarray((labels + 1000).astype(np.uint16)).save(tmp_path / "b.png")
    palette = image.fromarray(labels.astype(np.uint8))
    palette.putpalette([255 - i // 3 for i in range(768)])
    palette.save(tmp_path / "c.png")
    tifffile.imwrite(tmp_path / "d.tiff", labels.astype(np.uint16))
    made = Microstructures(tmp_path)
    expected = grain_graph(labels)
    for data in made:
        torch.testing.assert_close(data.x, expected.x)
        torch.testing.assert_close(data.edge_attr, expected.edge_attr)
    volume = cells((5, 7, 11), 7)
    tifffile.imwrite(tmp_path / "volume.tif", volume.astype(np.uint16))
    torch.testing.assert_close(Microstructures(tmp_path / "volume.tif")[0].x, grain_graph(volume).x)
    image.fromarray(labels > 3).save(tmp_path / "bits.png")
    torch.testing.assert_close(
        Microstructures(tmp_path / "bits.png", kind="phases")[0].x,
        region_graph(labels > 3, (0, 1)).x,
    )


def test_tables_become_features_and_angles_are_turned_into_circles(folder, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for path in sorted(folder.iterdir()):
        grains = np.unique(np.load(path))[::-1]  # the order of the rows is free
        if path.stem == "s1":
            np.savez(tables / "s1.npz", label=grains, angle=grains * 10.0, phase=grains + 0.5)
        else:
            rows = "\n".join(f"{g},{g * 10.0},{g + 0.5}" for g in grains)
            (tables / f"{path.stem}.csv").write_text(f"label, angle, phase\n{rows}\n")
    made = Microstructures(folder, tables=tables, angles={"angle": 180})
    assert made.node_names[-3:] == ("cos_angle", "sin_angle", "phase")
    for data in made:
        turn = data.grain * 10.0 * 2 * math.pi / 180
        torch.testing.assert_close(
            data.x[:, -3:], torch.stack([turn.cos(), turn.sin(), data.grain + 0.5], 1)
        )


def test_the_cache_follows_the_content_of_files(folder, tmp_path):
    root = tmp_path / "cache"
    first = Microstructures(folder, root)
    again = Microstructures(folder, root)
    assert again.cache_path == first.cache_path and torch.equal(again[1].x, first[1].x)
    np.save(folder / "s1.npy", cells((11, 13), 4, 9))
    other = Microstructures(folder, root)
    assert other.cache_path != first.cache_path and other[1].num_nodes == 4
    assert Microstructures(folder, root, periodic=True).cache_path != other.cache_path


def test_one_grain_works_and_is_told(tmp_path):
    np.save(tmp_path / "one.npy", np.full((3, 5), 7))
    with pytest.warns(
        UserWarning, match=r"one.npy has one grain: its graph has one node and no edges"
    ):
        made = Microstructures(tmp_path / "one.npy")
    assert made[0].num_nodes == 1 and made[0].num_edges == 0


def write_truncated_png(path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra microstructure")
    image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])


def write_truncated_tiff(path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="needs the extra microstructure")
    tifffile.imwrite(
        path, np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8), compression=None
    )
    path.write_bytes(path.read_bytes()[:1000])


def write_colours(path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra microstructure")
    image.fromarray(np.zeros((5, 7, 3), dtype=np.uint8)).save(path)


BAD_FILES = [
    ("a.png", write_truncated_png, "a.png cannot be read"),
    ("a.tif", write_truncated_tiff, "a.tif cannot be read"),
    ("a.png", write_colours, r"a.png is a colour image of shape \(5, 7, 3\)"),
    ("a.npy", lambda path: path.write_bytes(b"no array"), "a.npy cannot be read"),
    ("a.npy", lambda path: np.save(path, np.array([{}], dtype=object)), "a.npy cannot be read"),
    (
        "a.npy",
        lambda path: np.save(path, np.ones((3, 5))),
        r"a.npy holds float64 and labels are integers; .*np.rint",
    ),
    ("a.npy", lambda path: np.save(path, np.ones(5, dtype=int)), r"a.npy has the shape \(5,\)"),
    (
        "a.npy",
        lambda path: np.save(path, np.ones((0, 5), dtype=int)),
        r"a.npy has the shape \(0, 5\)",
    ),
    ("a.jpg", lambda path: path.write_bytes(b""), "unknown suffix '.jpg'; known: .png"),
]


@pytest.mark.parametrize(("name", "write", "message"), BAD_FILES)
def test_files_that_cannot_be_used_are_named_and_can_be_skipped(tmp_path, name, write, message):
    good, bad = tmp_path / "good.npy", tmp_path / name
    np.save(good, LABELS)
    write(bad)
    with pytest.raises(ValueError, match=message):
        Microstructures([good, bad])
    with pytest.warns(UserWarning, match=r"1 left out, 1 kept \(.*" + message):
        made = Microstructures(
            [bad, good], tmp_path / "cache", targets={name: 1.0, "good": 2.0}, on_error="skip"
        )
    assert len(made) == 1 and made[0].y.item() == 2.0
    # told again of graphs from the cache
    with pytest.warns(UserWarning, match=r"1 left out, 1 kept \(.*" + message):
        assert (
            Microstructures(
                [bad, good], tmp_path / "cache", targets={name: 1.0, "good": 2.0}, on_error="skip"
            ).skipped
            == made.skipped
        )


def test_images_of_other_dimensions_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", LABELS)
    np.save(tmp_path / "b.npy", cells((3, 5, 7), 3))
    with pytest.raises(ValueError, match=r"b.npy has 3 dimensions and the files before it have 2"):
        Microstructures(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,strength\ns0,1\ns1,nan\ns2,3\n",
            r"targets.csv, row 2 \(file s1\), column 'strength': nan is no value",
        ),
        ("file,strength\ns0,1\ns1,\ns2,3\n", "row 2 .*: an empty cell is no value"),
        ("file,strength\ns0,1\ns1,strong\ns2,3\n", "row 2 .*: 'strong' is no number"),
        ("file,strength\ns0,1\ns1,inf\ns2,3\n", "row 2 .*: inf is no value"),
        ("file,strength\ns0,1\ns1,2\n", "has no row for s2.npy"),
        ("file,strength\ns0,1\ns0,2\n", "row 2: file s0 is there twice"),
        ("file,strength\ns0,1,5\n", "row 1: 3 cells under 2 columns"),
        ("name,strength\ns0,1\n", "has no column 'file'; it has name, strength"),
        ("", "has no column 'file'; it has none"),
    ],
)
def test_bad_targets_are_refused_with_their_row(folder, tmp_path, text, message):
    (tmp_path / "targets.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Microstructures(folder, targets=tmp_path / "targets.csv")


def test_targets_may_be_missing_where_that_is_said(folder, tmp_path):
    (tmp_path / "targets.csv").write_text("file,a,b\ns0,1,\ns1,2,5\n")
    made = Microstructures(folder, targets=tmp_path / "targets.csv", missing=True)
    assert made.target_names == ("a", "b")
    torch.testing.assert_close(
        torch.cat([data.y for data in made]),
        torch.tensor([[1, math.nan], [2, 5], [math.nan] * 2]),
        equal_nan=True,
    )
    with pytest.raises(ValueError, match="targets: 's1' has"):
        Microstructures(folder, targets={"s0": 1.0, "s1": math.nan, "s2": 1.0})
    with pytest.raises(ValueError, match="as many values for each file"):
        Microstructures(folder, targets={"s0": 1.0, "s1": (1.0, 2.0), "s2": 1.0})


def test_bad_tables_are_named(folder, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    with pytest.raises(ValueError, match=r"neither s0.csv nor s0.npz"):
        Microstructures(folder, tables=tables)
    for path in folder.iterdir():
        (tables / f"{path.stem}.csv").write_text("label,angle\n0,1\n")
    with pytest.raises(ValueError, match=r"s0.csv has no row for 2 of 3 grains \(labels 1, 2\)"):
        Microstructures(folder, tables=tables)
    with pytest.raises(ValueError, match=r"angles: .*s0.csv has no column 'phi'; it has angle"):
        Microstructures(folder, tables=tables, angles={"phi": 360})
    with pytest.raises(ValueError, match="there are no tables"):
        Microstructures(folder, angles={"phi": 360})
    with pytest.raises(ValueError, match="tables are for kind='grains'"):
        Microstructures(folder, kind="phases", tables=tables)
    with pytest.raises(ValueError, match=r"one table a file \(3\), got 1"):
        Microstructures(folder, tables=[tables / "s0.csv"])


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="there are no images in"):
        Microstructures(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file .*nothing.npy"):
        Microstructures(tmp_path / "nothing.npy")
    with pytest.raises(ValueError, match="unknown kind 'cells'; known: grains, phases"):
        Microstructures(tmp_path, kind="cells")
