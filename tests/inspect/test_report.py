"""The page of a model's graphs, read back from its file."""

from __future__ import annotations

import base64
import csv
import html.parser
import importlib.resources
import json
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

import graphformer as gf
from graphformer.graph import AttentionGraph
from graphformer.inspect import LayerGraph, ModelGraphs, Nodes, report
from graphformer.inspect.report.content import turned
from tests.adapter_models import feed, make

KINDS = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "f4": "<f4"}
NASTY = [
    "</script>",
    "<b>bold",
    '"',
    "'",
    "&amp;",
    "\x00",
    "שלום",
    "漢字",
    "\u202eabc",
    "\u2028",
    "\ud800",
    "{{script}}",
    "<!--",
    "\n",
]


def graphs_of(name="llama", length=11, keep=None, sparsify=gf.Threshold(0.05), **options):  # noqa: B008
    torch.manual_seed(3)
    ids = torch.randint(4, 61, (2, length))
    return gf.inspect.graphs(make(name), **feed(name, ids, keep), sparsify=sparsify, **options)


def small(edges, nodes=3, **side):
    """One layer of one head."""
    senders, receivers, weight = zip(*edges, strict=True) if edges else ((), (), ())
    graph = AttentionGraph.from_edges(
        torch.tensor(senders, dtype=torch.int64),
        torch.tensor(receivers, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float64),
        num_nodes=nodes,
        batch_shape=(1, 1),
    )
    layer = LayerGraph("layer", "self", graph, "nodes", "nodes", (0,))
    side = {"keep": torch.ones(1, nodes, dtype=torch.bool), **side}
    return ModelGraphs((layer,), {"nodes": Nodes(**side)}, "Model", "every pair")


class Scripts(html.parser.HTMLParser):
    """The elements of a page and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def page_of(graphs, path, **options):
    graphs.report(path, **options)
    found = Scripts(path.read_text("utf-8"))
    assert len(found.scripts) == 2
    return json.loads(found.scripts[0])


def array(packed):
    return np.frombuffer(base64.b64decode(packed["b"]), KINDS[packed["t"]])


def edges_of(packed, senders):
    """Dense weights ``[H, rows, senders]`` with NaN where there is no edge, and the resolution of
    each head's weights.
    """
    heads, rows = len(packed["low"]), packed["rows"]
    low, high = np.array(packed["low"]), np.array(packed["high"])
    row = np.repeat(np.arange(heads * rows), array(packed["counts"]))
    head = row // max(rows, 1)
    dense = np.full((heads * rows, senders), np.nan)
    dense[row, array(packed["senders"])] = (
        low[head] + (high - low)[head] * array(packed["weights"]) / 65535
    )
    return dense.reshape(heads, rows, senders), (high - low) / 65535


def dense_of(graph):
    """The same of a graph, lanes first."""
    dense = np.full((graph.num_lanes * graph.num_receivers, graph.num_senders), np.nan)
    dense[graph.receivers, graph.senders % graph.num_senders] = graph.weight.double()
    return dense.reshape(graph.num_lanes, graph.num_receivers, graph.num_senders)


@pytest.mark.parametrize("merge", [None, "sum"])
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_the_page_holds_every_edge_and_its_weight(name, merge, tmp_path):
    keep = torch.ones(2, 11, dtype=torch.int64)
    keep[0, :3], keep[1, 7:] = 0, 0
    graphs = graphs_of(name, keep=keep, merge=merge)
    page = page_of(graphs, tmp_path / "page.html")
    assert [layer["name"] for layer in page["layers"]] == graphs.names
    assert [layer["kind"] for layer in page["layers"]] == [one.kind for one in graphs.layers]
    for sequence, held in enumerate(page["sequences"]):
        one = graphs.of_sequence(sequence)
        for side, nodes in one.nodes.items():
            assert held["nodes"][side]["count"] == nodes.count
        for layer, packed in zip(one.layers, held["layers"], strict=True):
            want = dense_of(layer.graph)
            got, step = edges_of(packed, layer.graph.num_senders)
            assert np.array_equal(np.isnan(got), np.isnan(want))
            apart = np.abs(np.nan_to_num(got - want)).max((1, 2))
            assert (apart <= 0.5001 * step + 1e-12).all() and np.nanmax(want) > 0
            assert packed["total"] == np.isfinite(want).sum((1, 2)).tolist()


def test_max_edges_keeps_the_heaviest_of_each_head_and_says_how_many_there_were(tmp_path):
    graphs = graphs_of()
    page = page_of(graphs, tmp_path / "page.html", max_edges=7)
    assert page["maxEdges"] == 7
    for sequence, held in enumerate(page["sequences"]):
        one = graphs.of_sequence(sequence)
        for layer, packed in zip(one.layers, held["layers"], strict=True):
            want = dense_of(layer.graph)
            got, _ = edges_of(packed, layer.graph.num_senders)
            assert packed["total"] == np.isfinite(want).sum((1, 2)).tolist()
            for head, own in enumerate(want):
                assert np.isfinite(got[head]).sum() == 7 < packed["total"][head]
                bound = np.sort(own[np.isfinite(own)])[-7]
                assert (own[np.isfinite(got[head])] >= bound).all()


def test_an_edge_takes_four_bytes(tmp_path):
    nodes, heads, degree = 301, 7, 40
    receivers = torch.arange(heads * nodes).repeat_interleave(degree)
    offset = torch.arange(degree).repeat(heads * nodes)
    senders = (receivers + 3 * offset) % nodes + receivers // nodes * nodes
    weight = torch.rand(len(senders))
    graph = AttentionGraph.from_edges(
        senders, receivers, weight, num_nodes=nodes, batch_shape=(1, heads)
    )
    layer = LayerGraph("layer", "self", graph, "tokens", "tokens", tuple(range(heads)))
    graphs = ModelGraphs((layer,), {"tokens": Nodes(torch.ones(1, nodes, dtype=torch.bool))})
    page_of(graphs, tmp_path / "page.html")
    page_of(graphs, tmp_path / "bare.html", max_edges=1)
    added = (tmp_path / "page.html").stat().st_size - (tmp_path / "bare.html").stat().st_size
    assert added <= 4 * 4 / 3 * graph.num_edges * 1.001
    assert (tmp_path / "bare.html").stat().st_size < 80_000


def test_numbers_of_nodes_beyond_16_bits(tmp_path):
    nodes = 70_001
    graphs = small([(nodes - 1, 0, 0.5), (3, nodes - 1, 0.25), (3, 3, -1.0)], nodes)
    packed = page_of(graphs, tmp_path / "page.html")["sequences"][0]["layers"][0]
    assert array(packed["senders"]).tolist() == [nodes - 1, 3, 3]
    assert np.flatnonzero(array(packed["counts"])).tolist() == [0, 3, nodes - 1]
    assert (packed["low"], packed["high"]) == ([-1.0], [0.5])


def test_texts_cannot_break_the_page(tmp_path):
    count = len(NASTY)
    graphs = small(
        [(0, 1, 0.5)], count, keep=torch.ones(1, count).bool(), labels=(tuple(NASTY),), texts=("<",)
    )
    graphs = replace(graphs, model="</title><script>alert(1)</script>{{data}}")
    page = page_of(graphs, tmp_path / "page.html")
    assert page["sequences"][0]["nodes"]["nodes"]["labels"] == NASTY
    assert page["title"] == graphs.model
    plain = tmp_path / "plain.html"
    small([(0, 1, 0.5)]).report(plain)
    tags = [Scripts(path.read_text()).tags for path in (tmp_path / "page.html", plain)]
    assert tags[0] == tags[1]
    page_of(graphs, tmp_path / "named.html", title='<i>"\0')


def test_the_page_asks_for_nothing(tmp_path):
    """What it may load is in the page; namespaces of XML are only names."""
    graphs_of().report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert set(re.findall(r"https?://[\w.]+", text)) == {"http://graphml.graphdrawing.org"}
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)


def test_measures_and_ablation_stand_at_their_heads(tmp_path):
    graphs = graphs_of(heads=[1, 3])
    name = graphs.names[1]
    page = page_of(
        graphs,
        tmp_path / "page.html",
        measures={(name, 3): {"entropy": 1.5, "depth": float("nan")}, (0, 1): {"entropy": 2}},
        ablation={(2, 3): np.float32(-0.25), (name, 1): torch.tensor(0.5)},
    )
    measures = [layer["measures"] for layer in page["layers"]]
    assert measures == [
        [{"entropy": 2.0}, None],
        [None, {"entropy": 1.5, "depth": None}],
        [None, None],
    ]
    assert [layer["ablation"] for layer in page["layers"]] == [
        [None, None],
        [0.5, None],
        [None, -0.25],
    ]


def test_the_tables_of_measures_and_of_ablation(tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("igraph")
    for merge in (None, "mean"):
        graphs = graphs_of(merge=merge)
        table = graphs.measures()
        page = page_of(graphs, tmp_path / "page.html", measures=table)
        for number, layer in enumerate(page["layers"]):
            for place, head in enumerate(layer["heads"] or [-1]):
                rows = table[(table["layer"] == number) & (table["head"] == head)]
                assert len(rows) == 2
                assert layer["measures"][place]["edges"] == rows["edges"].mean()
                assert not {"sequence", "name", "kind"} & layer["measures"][place].keys()
    ids = torch.randint(4, 61, (1, 7))
    table = gf.inspect.ablate(make("llama"), input_ids=ids, labels=ids, method="gradient")
    page = page_of(graphs_of(), tmp_path / "page.html", ablation=table)
    flat = [value for layer in page["layers"] for value in layer["ablation"]]
    assert flat == pytest.approx(table["change"].tolist())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_edge": 3}, TypeError, "no option 'max_edge'; did you mean 'max_edges'"),
        ({"max_edges": 0}, ValueError, "max_edges must be at least 1, got 0"),
        ({"max_edges": "all"}, TypeError, "max_edges must be a whole number"),
        ({"title": 7}, TypeError, "title must be a text, got 7"),
        ({"measures": [1]}, TypeError, "measures must be a mapping"),
        ({"measures": {"layer": {}}}, TypeError, "keyed by .layer, head., got the key 'layer'"),
        ({"measures": {(0, 1): 3.0}}, TypeError, "layer 0, head 1 must be a dictionary"),
        ({"measures": {(0, 1): {"a": "b"}}}, TypeError, "layer 0, head 1 is no number: 'b'"),
        ({"ablation": {(3, 0): 1.0}}, ValueError, r"\(3, 0\), and there is no such layer"),
        ({"ablation": {("modl", 0): 1.0}}, ValueError, "no such layer"),
        ({"ablation": {(0, 4): 1.0}}, ValueError, r"no such head; its heads: \[0, 1, 2, 3\]"),
        ({"ablation": {(0, None): 1.0}}, ValueError, "no such head"),
        ({"ablation": {(0, 1): None}}, TypeError, "is no number: None"),
    ],
)
def test_options_that_do_not_fit_are_named_and_nothing_is_written(options, error, text, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    with pytest.raises(error, match=text):
        graphs_of().report(path, **options)
    assert path.read_text() == "before" and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_paths_that_cannot_be_written_are_named(tmp_path):
    graphs = small([(0, 1, 0.5)])
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere. does not exist"):
        graphs.report(tmp_path / "nowhere" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        graphs.report(tmp_path)


def test_too_many_edges_are_refused_with_the_option_that_cuts_them(tmp_path, monkeypatch):
    graphs = graphs_of()
    edges = sum(graph.num_edges for graph in graphs)
    monkeypatch.setattr(report, "LIMIT", edges - 1)
    with pytest.raises(ValueError, match=rf"{edges:,} edges.*max_edges=\d+ keeps") as refused:
        graphs.report(tmp_path / "page.html")
    offered = int(re.search(r"max_edges=(\d+)", str(refused.value))[1])
    page = page_of(graphs, tmp_path / "page.html", max_edges=offered)
    held = [array(layer["weights"]) for one in page["sequences"] for layer in one["layers"]]
    assert 0 < sum(map(len, held)) <= edges - 1


def test_no_layers_no_edges_and_numbers_that_are_not_finite(tmp_path):
    graphs = small([(0, 1, 0.5)])
    with pytest.raises(ValueError, match="no layers to show"):
        replace(graphs, layers=()).report(tmp_path / "page.html")
    with pytest.raises(ValueError, match="layer has a weight that is not finite"):
        small([(0, 1, float("inf"))]).report(tmp_path / "page.html")
    with pytest.raises(ValueError, match="pos of nodes is not finite"):
        small([(0, 1, 0.5)], pos=torch.full((1, 3, 2), torch.nan)).report(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match=r"no layer has an edge \(sparsify was every pair\)"):
        page = page_of(small([]), tmp_path / "page.html")
    assert page["sequences"][0]["layers"][0]["total"] == [0]


def test_coordinates_are_turned_and_never_mirrored():
    torch.manual_seed(0)
    pos = (torch.randn(17, 3).double() * torch.tensor([1.0, 7.0, 3.0]) + 5).numpy()
    found = turned(pos, "residue")
    apart, before = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (found, pos))
    ratio = apart[before > 0] / before[before > 0]
    np.testing.assert_allclose(ratio, ratio[0])
    assert np.abs(found).max() == pytest.approx(1)
    spread = found.std(0)
    assert spread[0] > spread[1] > spread[2]
    a, b = (x[1:4] - x[0] for x in (found, pos))
    assert np.sign(np.linalg.det(a)) == np.sign(np.linalg.det(b))
    # an image's rows run downwards
    corner = turned(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), "grain")
    assert corner[1, 1] < corner[0, 1] and corner[2, 0] > corner[0, 0]
    assert turned(np.zeros((1, 3)), "residue").tolist() == [[0.0, 0.0, 0.0]]
    assert turned(np.array([[1.0], [3.0]]), "node").tolist() == [[-1, 0, 0], [1, 0, 0]]


def test_molecules_are_drawn_with_their_atoms_in_place(tmp_path):
    Chem = pytest.importorskip("rdkit.Chem")
    for smiles, count in (("c1ccccc1O", 7), ("*CC(*)(C)C(=O)OC", 7)):
        graphs = small([(0, 1, 0.5)], count, kind="atom", texts=(smiles,))
        nodes = page_of(graphs, tmp_path / "page.html")["sequences"][0]["nodes"]["nodes"]
        places = array(nodes["places"]).reshape(-1, 2)
        assert places.shape == (count, 2) and places.min() > 0 and places.max() < 1
        assert b"<svg" in base64.b64decode(nodes["svg"])
        symbols = [atom.GetSymbol() for atom in Chem.MolFromSmiles(smiles).GetAtoms()]
        assert nodes["symbols"] == [one for one in symbols if one != "*"]
    for smiles, text in (("CC", "'CC' has 2 atoms, and the graph 3 nodes"), ("C(", "cannot read")):
        graphs = small([(0, 1, 0.5)], kind="atom", texts=(smiles,))
        nodes = page_of(graphs, tmp_path / "page.html")["sequences"][0]["nodes"]["nodes"]
        assert "svg" not in nodes and text in nodes["note"]


def test_the_files_of_the_page_are_in_the_package():
    files = importlib.resources.files("graphformer.inspect.report")
    held = {one.name for one in files.iterdir() if one.name.endswith((".js", ".css", ".html"))}
    assert held == set(report.FILES)


@pytest.mark.slow
def test_a_real_protein_and_a_real_polymer_stand_where_they_are(data_dir, tmp_path):
    """Lysozyme's CA atoms up to turn and scale, and a polymer's atoms on its drawing."""
    pytest.importorskip("biotite")
    pytest.importorskip("rdkit")
    folder = tmp_path / "structures"
    folder.mkdir()
    shutil.copy(data_dir / "protein-structures" / "biotite" / "1aki.cif", folder)
    protein = gf.datasets.ProteinStructures(None, folder, cutoff=10.0, target="exposure")[0]
    with (data_dir / "polymer-dft" / "Egc.csv").open() as file:
        smiles = max((row["smiles"] for row in csv.DictReader(file)), key=len)
    polymer = gf.datasets.polymer_graph(smiles)
    found = {}
    for name, data in (("protein", protein), ("polymer", polymer)):
        torch.manual_seed(0)
        net = gf.GraphTransformer(
            node_dim=data.x.shape[1],
            edge_dim=data.edge_attr.shape[1],
            hidden_size=6,
            num_layers=1,
            num_heads=2,
            target="node",
            out_dim=1,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "data.pos is not read")
            graphs = gf.inspect.graphs(net, Batch.from_data_list([data]), sparsify=None)
        page = page_of(graphs, tmp_path / "page.html")["sequences"][0]
        held = array(page["layers"][0]["weights"])
        assert len(held) == graphs[0].num_edges > data.num_nodes
        found[name] = page["nodes"]["nodes"]
    assert (found["protein"]["kind"], found["protein"]["text"]) == ("residue", "1aki.cif")
    pos = array(found["protein"]["pos"]).reshape(-1, 3).astype(float)
    apart, want = (
        np.linalg.norm(x[:, None] - x, axis=-1)[~np.eye(len(x), dtype=bool)]
        for x in (pos, protein.pos.double().numpy())
    )
    ratio = apart / want
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-4)
    assert found["polymer"]["text"] == smiles and "note" not in found["polymer"]
    assert len(found["polymer"]["symbols"]) == polymer.num_nodes
