"""What all graph data sets share: the cache, downloads, parts; and Mechanical MNIST."""

import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import AddSelfLoops, Compose, ToUndirected

from graphformer.datasets import DownloadError, GraphDataset, MechanicalMNIST, RawFile
from graphformer.datasets.store.download import download, find
from graphformer.datasets.store.fingerprint import describe


class Paths(GraphDataset):
    """Graph i is a path of i + 1 nodes; ``built`` counts how often graphs are made."""

    built = 0

    def __init__(self, root, number=5, scale=1.0, **options):
        self.number, self.scale = number, scale
        super().__init__(root, {"number": number, "scale": scale}, **options)

    def build(self) -> Iterator[Data]:
        type(self).built += 1
        for i in range(self.number):
            if i == 3 and self.scale < 0:
                self.skip(f"row {i}: negative")
                continue
            ends = torch.arange(i)
            edges = torch.stack([ends, ends + 1])
            x = self.scale * torch.arange(i + 1.0)[:, None]
            yield Data(
                x=x,
                edge_index=edges,
                edge_attr=torch.ones(i, 2),
                y=torch.tensor([[float(i)]]),
                name=f"path {i}",
            )


@pytest.fixture(autouse=True)
def no_surprise_and_no_count():
    Paths.built = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(cache file|left out).*")
        yield


def assert_same(a: GraphDataset, b: GraphDataset) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one.to_dict():
            assert (
                torch.equal(one[name], other[name])
                if isinstance(one[name], torch.Tensor)
                else one[name] == other[name]
            )


# --- what users of PyG expect


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("kept", [True, False])
def test_it_is_a_data_set_of_pyg(tmp_path, number, kept):
    made = Paths(tmp_path if kept else None, number)
    assert (
        len(made) == number
        and isinstance(made[0], Data)
        and made[number - 1].num_nodes == number
        and made[-1].name == f"path {number - 1}"
    )
    assert (
        made.num_node_features == 1
        and made.num_edge_features == 2
        and repr(made).startswith("Paths(")
    )
    batch = next(iter(DataLoader(made, batch_size=number)))
    assert batch.num_graphs == number and batch.num_nodes == number * (number + 1) // 2
    assert len(made.shuffle()) == number and len(made[made.y.flatten() > 2]) == max(0, number - 3)


def test_slices_and_transforms(tmp_path):
    made = Paths(tmp_path, transform=lambda data: data.update({"x": data.x + 1}))
    assert [data.num_nodes for data in made[1:4]] == [2, 3, 4] and [
        data.num_nodes for data in made[[4, 0]]
    ] == [5, 1]
    # the transform does not pile up
    assert made[1:4][0].x[0].item() == 1 and made[1:4][0].x[0].item() == 1
    changed = Paths(
        tmp_path, pre_transform=ToUndirected(), pre_filter=lambda data: data.num_nodes > 2
    )
    assert [data.num_edges for data in changed] == [4, 6, 8]
    assert made.copy([1, 2])[0].num_nodes == 2


def test_everything_filtered_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="Paths has no graph"):
        Paths(tmp_path, pre_filter=lambda data: False)


def test_attributes_that_are_one_object_are_kept_once(tmp_path):
    class Grid(Paths):
        def build(self):
            edges = torch.tensor([[0, 1], [1, 2]])
            yield from (
                Data(x=torch.full((3, 1), float(i)), edge_index=edges, side=3)
                for i in range(self.number)
            )

    for made in (Grid(None), Grid(tmp_path), Grid(tmp_path)):
        assert (
            made._data.edge_index is None
            and made[4].edge_index.tolist() == [[0, 1], [1, 2]]
            and made[4].side == 3
        )
        assert made[1:3][1].x.tolist() == [[2.0]] * 3 and Grid.built <= 2
        assert next(iter(DataLoader(made, batch_size=5))).edge_index.max() == 14
    assert [data.num_edges for data in Grid(None, pre_transform=AddSelfLoops())] == [5] * 5


# --- the cache


def test_the_cache_serves_what_was_built(tmp_path):
    first, second = Paths(tmp_path), Paths(tmp_path)
    assert (
        Paths.built == 1
        and second.processed_paths == [str(first.cache_path)]
        and first.cache_path.is_file()
    )
    assert_same(first, second)
    assert_same(first, Paths(None))
    # nothing temporary stays
    assert [path.name for path in first.cache_path.parent.iterdir()] == [first.cache_path.name]


class Scaled:
    """A transform of somebody's own."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, data: Data) -> Data:
        return data.update({"x": data.x * self.factor})


def scale(data: Data, factor: float) -> Data:
    return data.update({"x": data.x * factor})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"number": 4}),
        ({"scale": 1.0}, {"scale": 1.0000001}),
        ({}, {"pre_filter": lambda data: data.num_nodes > 1}),
        (
            {"pre_filter": lambda data: data.num_nodes > 1},
            {"pre_filter": lambda data: data.num_nodes > 2},
        ),
        ({"pre_transform": Scaled(2.0)}, {"pre_transform": Scaled(3.0)}),
        (
            {"pre_transform": functools.partial(scale, factor=2.0)},
            {"pre_transform": functools.partial(scale, factor=3.0)},
        ),
        (
            {"pre_transform": Compose([ToUndirected()])},
            {"pre_transform": Compose([ToUndirected(reduce="mean")])},
        ),
        ({"pre_transform": Scaled(2.0)}, {"pre_transform": Scaled(2.0).__call__}),
    ],
)
def test_other_settings_are_never_served(tmp_path, one, other):
    first, second = Paths(tmp_path, **one), Paths(tmp_path, **other)
    assert first.cache_path != second.cache_path and Paths.built == 2
    Paths(tmp_path, **one), Paths(tmp_path, **other)
    assert Paths.built == 2
    assert_same(second, Paths(None, **other))


def test_closures_count(tmp_path):
    def times(factor):
        return lambda data: data.update({"x": data.x * factor})

    assert (
        Paths(tmp_path, pre_transform=times(2.0)).cache_path
        != Paths(tmp_path, pre_transform=times(3.0)).cache_path
    )


def test_another_version_of_the_builder_is_never_served(tmp_path, monkeypatch):
    Paths(tmp_path)
    monkeypatch.setattr(Paths, "version", 2)
    Paths(tmp_path)
    assert Paths.built == 2


def test_what_cannot_be_described_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"a setting of type Generator cannot be described.*root=None"
    ):
        Paths(tmp_path, scale=torch.Generator())


@pytest.mark.slow
def test_descriptions_are_the_same_in_every_process():
    """Sets of text have another order in each process."""
    code = (
        "from graphformer.datasets.store.fingerprint import describe\n"
        "import numpy as np\n"
        "print(describe([lambda x: x in {'a', 'b', 'c'}, {'p', 'q', 'r'}, np.arange(3), {'b': 1, "
        "'a': (2, None)}]))"
    )
    seen = set()
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        seen.add(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            ).stdout
        )
    assert len(seen) == 1 and "function" in seen.pop()


def test_objects_that_hold_themselves_are_described():
    looped = Scaled(2.0)
    looped.me = looped
    assert describe(looped) == describe(looped)


class AnObject:
    """What torch.load does not make under weights_only."""


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sealed(cache, payload):
    """A cache file with another payload, and the right checksum."""
    magic, header, _ = cache.split(b"\n", 2)
    header = {**json.loads(header), "sha256": hashlib.sha256(payload).hexdigest()}
    return b"\n".join([magic, json.dumps(header).encode(), payload])


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "empty", "foreign", "header", "payload", "code", "other"]
)
def test_a_damaged_cache_is_named_and_made_again(tmp_path, damage):
    path = Paths(tmp_path).cache_path
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-200] ^= 1
    damaged = {
        "truncated": whole[:-100],
        "flipped": bytes(flipped),
        "empty": b"",
        "foreign": b"something else\n",
        "header": whole[:60],
    }
    damaged |= {
        "payload": sealed(whole, b"no archive"),
        "code": sealed(whole, saved(AnObject())),
        "other": sealed(whole, saved([1])),
    }
    path.write_bytes(damaged[damage])
    with pytest.warns(
        UserWarning,
        match=rf"{path} (is damaged|is no cache|cannot be read|holds no graphs).*it is made again",
    ):
        again = Paths(tmp_path)
    assert path.read_bytes() == whole or Paths.built == 2
    assert_same(again, Paths(None))
    assert Paths(tmp_path).built == 3


def _payload(kind: str) -> bytes:
    out = io.BytesIO()
    slices = {"x": torch.tensor([0, 7, 90])}
    good = {"data": {"x": torch.ones(2, 1)}, "slices": slices, "shared": {}, "skipped": []}
    content = {
        "a list": [1, 2],
        "a function": {"data": print},
        "no slices": {name: value for name, value in good.items() if name != "slices"}
        | {"slices": 3},
        "parts beyond the end": {**good, "slices": {"x": torch.tensor([0, 5, 2]), "y": None}},
        "no skipped": {name: value for name, value in good.items() if name != "skipped"},
    }
    if kind == "noise":
        return b"these are no tensors"
    torch.save(content[kind], out)
    return out.getvalue()


@pytest.mark.parametrize(
    "kind", ["noise", "a list", "a function", "no slices", "parts beyond the end", "no skipped"]
)
def test_a_cache_of_the_right_checksum_and_another_content_is_made_again(tmp_path, kind):
    path, payload = Paths(tmp_path).cache_path, _payload(kind)
    magic, header, _ = path.read_bytes().split(b"\n", 2)
    header = json.dumps(
        {**json.loads(header), "sha256": hashlib.sha256(payload).hexdigest()}
    ).encode()
    path.write_bytes(b"\n".join([magic, header, payload]))
    with pytest.warns(
        UserWarning, match=rf"the cache file {path} (holds|cannot be read).*; it is made again"
    ):
        again = Paths(tmp_path)
    assert Paths.built == 2 and [len(again), len(Paths(tmp_path)), Paths.built] == [5, 5, 2]


def test_a_full_disk_loses_the_cache_and_not_the_graphs(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(
        UserWarning,
        match="cannot be written .No space left on device.; the graphs are in memory alone",
    ):
        made = Paths(tmp_path)
    assert len(made) == 5 and list((tmp_path / "processed").iterdir()) == []


def test_a_cache_under_the_name_of_another_is_not_served(tmp_path):
    path, other = Paths(tmp_path).cache_path, Paths(tmp_path, scale=2.0).cache_path
    os.replace(path, other)
    with pytest.warns(
        UserWarning, match=r"was made with other settings \(scale\); it is made again"
    ):
        assert Paths(tmp_path, scale=2.0)[1].x.tolist() == [[0.0], [2.0]]


def test_a_killed_writer_leaves_nothing_that_is_served(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Paths(tmp_path)
    monkeypatch.undo()
    assert list((tmp_path / "processed").iterdir()) == []
    # what a kill -9 leaves
    (tmp_path / "processed" / ".Paths-0.graphs.abc.part").write_bytes(b"half")
    assert len(Paths(tmp_path)) == 5


def test_force_reload(tmp_path):
    Paths(tmp_path)
    Paths(tmp_path, force_reload=True)
    assert Paths.built == 2


def test_a_root_that_cannot_be_written_to_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"root: .* cannot be written to .*root=None"):
        Paths(tmp_path / "file")
    assert Paths.built == 0


def test_what_the_cache_cannot_keep_is_refused(tmp_path):
    with pytest.raises(TypeError, match="the attribute 'odd' holds a object"):
        Paths(tmp_path, pre_transform=lambda data: data.update({"odd": object()}))


def test_what_is_left_out_is_reported_and_remembered(tmp_path):
    with pytest.warns(UserWarning, match=r"Paths: 1 left out, 4 kept \(row 3: negative\)"):
        Paths(tmp_path, scale=-1.0)
    # from the cache it is no more whole
    with pytest.warns(UserWarning, match=r"Paths: 1 left out, 4 kept \(row 3: negative\)"):
        assert Paths(tmp_path, scale=-1.0).skipped == ["row 3: negative"]
    assert Paths.built == 1


# --- parts


def test_splits_are_parts(tmp_path):
    made = Paths(None, 11)
    parts = made.split((0.5, 0.25, 0.25), seed=3)
    names = [data.name for part in parts for data in part]
    assert sorted(names) == sorted(data.name for data in made) and [
        len(part) for part in parts
    ] == [6, 2, 3]
    assert names == [
        data.name for part in Paths(tmp_path, 11).split((0.5, 0.25, 0.25), seed=3) for data in part
    ]
    assert names != [data.name for part in made.split((0.5, 0.25, 0.25), seed=4) for data in part]
    assert [len(part) for part in made.split((7, 2))] == [7, 2] and [
        len(part) for part in made.split((0.2,))
    ] == [2]
    inner = parts[0].split((0.5, 0.5))
    assert {data.name for part in inner for data in part} == {data.name for data in parts[0]}
    # Written down once: whoever compares with published numbers has these graphs.
    assert [data.num_nodes for data in made.split((3, 8))[0]] == (
        np.random.RandomState(0).permutation(11)[:3] + 1
    ).tolist()


@pytest.mark.parametrize("fractions", [(0.9, 0.2), (-0.1, 0.5), (7, 5), ()])
def test_bad_fractions_are_named(fractions):
    with pytest.raises(
        ValueError, match="fractions must be parts of 1, or numbers of graphs up to 11"
    ):
        Paths(None, 11).split(fractions)


def test_folds_test_each_graph_once():
    made = Paths(None, 11)
    folds = made.folds(3, seed=1)
    tested = [data.name for _, test in folds for data in test]
    assert sorted(tested) == sorted(data.name for data in made) and [
        len(test) for _, test in folds
    ] == [4, 4, 3]
    for training, test in folds:
        assert len(training) + len(test) == 11 and not {d.name for d in training} & {
            d.name for d in test
        }


def test_groups_stay_together():
    made, groups = Paths(None, 11), np.array(list("abcabcabcad"))
    for training, test in made.folds(2, groups=groups):
        inside = {groups[data.num_nodes - 1] for data in training}
        assert not inside & {groups[data.num_nodes - 1] for data in test}
    with pytest.raises(ValueError, match="k must be between 2 and 4, the number of groups, got 5"):
        made.folds(5, groups=groups)
    with pytest.raises(ValueError, match=r"groups must have one value a graph \(11\), got 3"):
        made.folds(2, groups=groups[:3])
    with pytest.raises(ValueError, match="k must be between 2 and 11, the number of graphs, got 1"):
        made.folds(1)


def test_dgl_graphs_hold_the_same():
    pytest.importorskip("dgl")
    made = Paths(None)
    for data, graph in zip(made, made.to_dgl(), strict=True):
        assert graph.num_nodes() == data.num_nodes
        assert torch.equal(torch.stack(graph.edges()), data.edge_index)
        assert torch.equal(graph.ndata["x"], data.x) and torch.equal(
            graph.edata["edge_attr"], data.edge_attr
        )
        assert set(graph.ndata) == {"x"} and set(graph.edata) == {"edge_attr"}
    assert [y.item() for _, y in made.to_dgl(labels=True)] == [0, 1, 2, 3, 4]


# --- downloads

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path) -> str:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "data.bin").write_bytes(CONTENT)
    return (tmp_path / "public" / "data.bin").as_uri()


def test_a_download_is_checked(tmp_path, served):
    target = download(RawFile("copy.bin", SHA, served), tmp_path / "raw")
    assert target == tmp_path / "raw" / "copy.bin" and target.read_bytes() == CONTENT


def test_a_name_with_a_folder(tmp_path, served, monkeypatch):
    target = download(RawFile("inputs/copy.bin", SHA, served), tmp_path / "raw")
    assert target == tmp_path / "raw" / "inputs" / "copy.bin" and target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["copy.bin"]
    with pytest.raises(DownloadError, match=rf"put inputs/copy.bin into {tmp_path}/other by hand"):
        download(RawFile("inputs/copy.bin", "0000", served), tmp_path / "other")
    monkeypatch.delenv("GRAPHFORMER_DATA", raising=False)
    assert find(RawFile("inputs/copy.bin", SHA), None, tmp_path / "raw", "unused") == target


def test_a_changed_file_is_refused_and_leaves_nothing(tmp_path, served):
    with pytest.raises(
        DownloadError,
        match=rf"have the SHA-256 {SHA} and 0000 is expected.*put copy.bin into .*raw by hand",
    ):
        download(RawFile("copy.bin", "0000", served), tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_missing_address_is_told(tmp_path, served):
    with pytest.raises(DownloadError, match=r"nothing.bin: cannot be downloaded"):
        download(RawFile("copy.bin", SHA, served.replace("data.bin", "nothing.bin")), tmp_path)
    with pytest.raises(
        DownloadError, match=r"there is no public address for copy.bin; put it into"
    ):
        download(RawFile("copy.bin", SHA), tmp_path)


def test_a_truncated_download_is_refused_and_leaves_nothing(tmp_path):
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:5000])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/data.bin"
        with pytest.raises(DownloadError, match=rf"broke off after 5000 of {len(CONTENT)} bytes"):
            download(RawFile("copy.bin", SHA, address), tmp_path / "raw")
    finally:
        server.shutdown()
        server.server_close()
    assert list((tmp_path / "raw").iterdir()) == []


class Stored(GraphDataset):
    """One graph from one raw file."""

    data_folder = "stored"

    def __init__(self, root, raw=None):
        super().__init__(root, {}, raw=raw)

    def build(self):
        yield Data(x=torch.tensor([[float(self.raw_path("data.bin").stat().st_size)]]))


def test_raw_files_are_sought_and_verified(tmp_path, served, monkeypatch):
    monkeypatch.setattr(Stored, "raw_files", (RawFile("data.bin", SHA, served),))
    monkeypatch.delenv("GRAPHFORMER_DATA", raising=False)
    root = tmp_path / "root"
    assert Stored(root)[0].x.item() == len(CONTENT) and (root / "raw" / "data.bin").is_file()
    (root / "raw" / "data.bin").write_bytes(CONTENT[:-1])
    assert Stored(root)[0].x.item() == len(CONTENT)  # the cache, whose key has the checksum
    with pytest.raises(
        ValueError,
        match=r"data.bin is damaged or of another version: its SHA-256 is .*it comes from file:",
    ):
        Stored(None, raw=root / "raw")
    with pytest.raises(ValueError, match=r"raw: there is no data.bin in .*empty"):
        Stored(None, raw=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"raw: data.bin is needed; name the folder"):
        Stored(None)
    common = tmp_path / "common" / "stored"
    common.mkdir(parents=True)
    (common / "data.bin").write_bytes(CONTENT)
    monkeypatch.setenv("GRAPHFORMER_DATA", str(common.parent))
    assert Stored(None)[0].x.item() == len(CONTENT)


# --- Mechanical MNIST


@pytest.fixture(scope="module")
def mnist_folder(data_dir: Path) -> Path:
    folder = data_dir / "mechanical-mnist"
    if not folder.is_dir():
        pytest.skip("the files of Mechanical MNIST are not here")
    return folder


@pytest.fixture(scope="module", params=["patches", "pixels"])
def mnist(request, mnist_folder) -> MechanicalMNIST:
    return MechanicalMNIST(None, request.param, raw=mnist_folder)


@pytest.mark.slow
def test_mechanical_mnist_is_what_the_authors_published(mnist):
    """The counts and the statistics of the final energy that came with the files."""
    assert (
        len(mnist) == 10_000
        and mnist.y.shape == (10_000, 13)
        and mnist.target_names[12] == "energy_12"
    )
    final = mnist.y[:, 12]
    assert (
        (mnist.y[:, 0] == 0).all()
        and abs(final.mean() - 161.10) < 0.01
        and abs(final.std() - 15.30) < 0.01
    )
    assert abs(final.min() - 110.5) < 0.1 and abs(final.max() - 219.4) < 0.1


def test_mechanical_mnist_grids(mnist):
    side = {"patches": 14, "pixels": 28}[mnist.kind]
    data = mnist[7]
    assert (
        data.validate()
        and data.num_nodes == side * side
        and data.num_edges == 4 * side * (side - 1)
        and data.is_undirected()
    )
    assert (
        data.is_coalesced()
        and data.x.shape[1] == len(mnist.node_names)
        and data.edge_attr.sum(1).unique().tolist() == [1.0]
    )
    images, _ = mnist.maps()
    width = 28 // side
    modulus = 1 + 99 * images[7].reshape(side, width, side, width).mean((1, 3)) / 255
    np.testing.assert_allclose(data.x[:, 0].exp().numpy().reshape(side, side), modulus, rtol=1e-5)
    # Vertical neighbours differ in their row, horizontal ones in their column.
    between = (data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]).abs()
    torch.testing.assert_close(between, width * data.edge_attr)
    height = mnist.node_names.index("height")
    assert (data.x[:, height].argsort(descending=True)[:side] < side).all()
    assert data.group_0.bincount().tolist() == [
        (side // 7) ** 2
    ] * 49 and data.group_1.unique().tolist() == list(range(9))
    assert len(torch.stack([data.group_0, data.group_1]).unique(dim=1).T) == 49  # nested


@pytest.mark.slow
def test_mechanical_mnist_moduli_of_a_patch(mnist_folder):
    """Lines of springs in series side by side, one patch after the other."""
    made = MechanicalMNIST(None, raw=mnist_folder)
    images, _ = made.maps()
    names = [
        made.node_names.index(f"log_{name}")
        for name in ("modulus", "harmonic", "vertical", "horizontal")
    ]
    found = made[7].x[:, names].exp().reshape(14, 14, 4)
    for row in range(14):
        for column in range(14):
            (a, b), (c, d) = (
                1
                + 99
                * images[7, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(float)
                / 255
            )
            vertical = (2 / (1 / a + 1 / c) + 2 / (1 / b + 1 / d)) / 2
            horizontal = (2 / (1 / a + 1 / b) + 2 / (1 / c + 1 / d)) / 2
            expected = [
                (a + b + c + d) / 4,
                4 / (1 / a + 1 / b + 1 / c + 1 / d),
                vertical,
                horizontal,
            ]
            torch.testing.assert_close(
                found[row, column], torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=0
            )
    assert (found[..., 1:2] <= found[..., 2:] * 1.00001).all() and (
        found[..., 2:] <= found[..., :1] * 1.00001
    ).all()


def test_mechanical_mnist_mirrors(mnist):
    """To negate ``across`` gives the graph of the mirror image."""
    side = {"patches": 14, "pixels": 28}[mnist.kind]
    data, across = mnist[7], mnist.node_names.index("across")
    x = data.x.view(side, side, -1)
    mirrored = x.flip(1)
    torch.testing.assert_close(mirrored[..., across], -x[..., across])
    flipped = torch.arange(side * side).view(side, side).flip(1).reshape(-1)
    edges = {tuple(pair) for pair in flipped[data.edge_index].T.tolist()}
    assert edges == {tuple(pair) for pair in data.edge_index.T.tolist()}


def test_mechanical_mnist_standard_split(mnist):
    parts = mnist.standard_split()
    assert [len(part) for part in parts] == [8000, 1000, 1000]
    assert (
        parts[2].indices()[:3] == np.random.RandomState(0).permutation(10_000)[9000:9003].tolist()
    )


@pytest.mark.slow
def test_mechanical_mnist_final_energy_alone_and_cache(mnist_folder, tmp_path):
    first = MechanicalMNIST(tmp_path, steps=(12,), raw=mnist_folder)
    second = MechanicalMNIST(tmp_path, steps=(12,))  # from the cache: no raw files are needed
    assert (
        first[5].y.shape == (1, 1)
        and torch.equal(first[5].x, second[5].x)
        and torch.equal(first[5].edge_index, second[5].edge_index)
    )


def test_mechanical_mnist_regions(mnist_folder, monkeypatch):
    maps = MechanicalMNIST.maps
    monkeypatch.setattr(
        MechanicalMNIST, "maps", lambda self: tuple(part[:5] for part in maps(self))
    )
    made = MechanicalMNIST(None, "regions", raw=mnist_folder, levels=3)
    for data in made:
        assert (
            data.x.shape[1] == len(made.node_names)
            and data.x[:, 0].sum() == 28 * 28
            and data.validate()
        )


def test_mechanical_mnist_bad_settings():
    with pytest.raises(
        ValueError, match="unknown kind 'superpixels'; known: patches, pixels, regions"
    ):
        MechanicalMNIST(None, "superpixels")
    with pytest.raises(ValueError, match="steps must be numbers from 0 to 12, got \\(13,\\)"):
        MechanicalMNIST(None, steps=(13,))
    with pytest.raises(ValueError, match="levels must be between 2 and 256, got 1"):
        MechanicalMNIST(None, levels=1)
