"""Nodes of graphs carry what their domain calls them, on real structures, polymers and images."""

import csv
import re

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

import graphformer as gf
from graphformer.datasets import (
    Microstructures,
    PolycrystalDataset,
    PolymerGraphs,
    ProteinStructures,
)


def net_of(graph, **options):
    torch.manual_seed(0)
    return gf.GraphTransformer(
        node_dim=graph.x.shape[1],
        edge_dim=graph.edge_attr.shape[1],
        hidden_size=6,
        num_layers=1,
        num_heads=2,
        **options,
    )


def side_of(graphs, target="graph", **options):
    net = net_of(graphs[0], target=target)
    found = gf.inspect.graphs(net, Batch.from_data_list(list(graphs)), **options)
    return found, found.nodes["nodes"]


def test_residues_are_letter_and_number_as_in_the_file(data_dir, tmp_path):
    pytest.importorskip("biotite")
    import biotite.structure as structure
    import biotite.structure.io.pdbx as pdbx

    names = ("1aki.cif", "1dix.cif", "1k6p.cif")  # insertion codes; two chains
    files = [data_dir / "protein-structures" / "biotite" / name for name in names]
    graphs = [g for g in ProteinStructures(None, files, target="sasa", log=False)]
    found, side = side_of(graphs, target="node")
    assert side.kind == "residue" and len(side.labels) == 3
    letters = {k: v for k, v in zip(THREE, ONE, strict=True)}
    for sequence, (file, graph) in enumerate(zip(files, graphs, strict=True)):
        atoms = pdbx.get_structure(pdbx.CIFFile.read(file), model=1, altloc="all")
        ca = atoms[(atoms.atom_name == "CA") & structure.filter_amino_acids(atoms)]
        several = len(set(graph.chains.split(","))) > 1
        known = {
            (f"{a.chain_id}:" if several else "")
            + f"{letters.get(a.res_name, 'X')}{a.res_id}{a.ins_code.strip()}"
            for a in ca
        }
        labels = side.names(sequence)
        assert len(labels) == side.count and labels[graph.num_nodes :] == [""] * (
            side.count - graph.num_nodes
        )
        assert set(labels[: graph.num_nodes]) <= known
        assert len(set(labels[: graph.num_nodes])) == graph.num_nodes
    assert side.labels[0][:3] == ("K1", "V2", "F3") and side.labels[1][0].endswith("X")
    assert {label[:2] for label in side.labels[2] if label} == {"A:", "B:"}
    page = tmp_path / "page.html"
    found.report(page)
    assert '"K1","V2","F3"' in page.read_text()


THREE = [
    *("ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU"),
    *("MET", "ASN", "PRO", "GLN", "ARG", "SER", "THR", "VAL", "TRP", "TYR"),
]
ONE = "ACDEFGHIKLMNPQRSTVWY"


@pytest.mark.parametrize("name", ["Egc.csv", "Ei.csv"])
def test_atoms_are_their_symbols(data_dir, tmp_path, name):
    pytest.importorskip("rdkit")
    from graphformer.datasets.polymers.features import NODE_NAMES

    with (data_dir / "polymer-dft" / name).open() as file:
        rows = list(csv.DictReader(file))[:40]
    (tmp_path / "some.csv").write_text(
        "smiles,value\n" + "".join(f"{row['smiles']},{row['value']}\n" for row in rows)
    )
    graphs = PolymerGraphs(
        None, file=tmp_path / "some.csv", text="smiles", targets=["value"], log=False
    )
    found, side = side_of(graphs)
    assert side.kind == "atom" and len(side.labels) == len(graphs) == 40
    columns = [i for i, name in enumerate(NODE_NAMES) if name.startswith("element_")]
    elements = [NODE_NAMES[i].removeprefix("element_") for i in columns]
    for row, graph in zip(side.labels, graphs, strict=True):
        told = [elements[k] for k in graph.x[:, columns].argmax(1).tolist()]
        symbols = list(row[: graph.num_nodes])
        assert all(a == b for a, b in zip(symbols, told, strict=True) if b != "other"), graph.text
        assert len(symbols) == graph.num_nodes and "*" not in symbols
    found.of_sequence(5).report(tmp_path / "page.html")
    assert '"C"' in (tmp_path / "page.html").read_text()


def test_atoms_of_copolymers(data_dir):
    pytest.importorskip("rdkit")
    from graphformer.datasets import polymer_graph

    text = "[*:1]CC([*:2])C.[*:3]COc1ccccc1[*:4]|0.5|0.5|<1-3:0.25:0.25<2-4:0.25:0.25"
    graph = polymer_graph(text)
    _, side = side_of([graph])
    assert list(side.labels[0]) == [*"CCC", *"COCCCCCC"]


def test_grains_are_their_label_and_pixels(tmp_path):
    graphs = list(PolycrystalDataset(tmp_path, 3, (4, 9), resolution=12, log=False))
    _, side = side_of(graphs)
    assert side.kind == "grain"
    for row, graph in zip(side.labels, graphs, strict=True):
        sizes = [int(re.fullmatch(r"grain (\d+), (\d+) px", one)[2]) for one in row if one]
        assert len(sizes) == graph.num_nodes and sum(sizes) == 12 * 12
        assert [int(one.split()[1][:-1]) for one in row if one] == graph.grain.tolist()


def test_pixels_are_those_of_the_image(tmp_path):
    image = np.array([[3, 3, 8, 8], [3, 3, 8, 8], [5, 5, 5, 8]])
    np.save(tmp_path / "a.npy", image)
    made = Microstructures([tmp_path / "a.npy"], None, kind="grains", log=False)
    _, side = side_of([made[0]])
    assert side.texts is not None and side.texts[0].endswith("a.npy")
    assert side.labels == (("grain 3, 4 px", "grain 5, 3 px", "grain 8, 5 px"),)


def test_labels_that_are_given_count_more(tmp_path):
    graph = PolycrystalDataset(tmp_path, 1, (4, 4), resolution=12, log=False)[0]
    _, side = side_of([graph], tokens=list("abcd"))
    assert side.labels == (tuple("abcd"),)


def test_an_unreadable_text_leaves_numbers(tmp_path):
    pytest.importorskip("rdkit")
    graph = PolycrystalDataset(tmp_path, 1, (4, 4), resolution=12, log=False)[0]
    del graph["grain"]
    graph.smiles = "no molecule"
    _, side = side_of([graph])
    assert side.labels is None and side.names(0) == ["0", "1", "2", "3"]
    graph.smiles, graph.z = "CO", torch.tensor([6, 8, 1, 17])  # hydrogens that the text leaves out
    assert side_of([graph])[1].labels == (("C", "O", "H", "Cl"),)


def test_pictures_name_residues_and_number_grains(data_dir, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("biotite")
    from matplotlib.figure import Figure

    from graphformer.inspect.pictures import draw_contacts, draw_grains

    file = data_dir / "protein-structures" / "biotite" / "1aki.cif"
    protein = ProteinStructures(None, [file], target="sasa", log=False)[0]
    edges = gf.AttentionGraph.from_edges(
        *protein.edge_index, torch.ones(protein.num_edges), num_nodes=protein.num_nodes
    )
    axes = Figure().subplots()
    draw_contacts(axes, protein, edges)
    for ticks, places in (
        (axes.get_xticklabels(), axes.get_xticks()),
        (axes.get_yticklabels(), axes.get_yticks()),
    ):
        told = [tick.get_text() for tick in ticks]
        assert told[0] == "K1" and len(told) == len(places) == 7
        want = [f"{protein.sequence[place]}{int(protein.residue[place])}" for place in places]
        assert told == want
    image = np.array([[3, 3, 8, 8], [3, 3, 8, 8], [5, 5, 5, 8]])
    np.save(tmp_path / "a.npy", image)
    grains = Microstructures([tmp_path / "a.npy"], None, kind="grains", log=False)[0]
    edges = gf.AttentionGraph.from_edges(
        *grains.edge_index, torch.ones(grains.num_edges), num_nodes=grains.num_nodes
    )
    axes = Figure().subplots()
    draw_grains(axes, grains, edges, image, spacing=1.0, periodic=False)
    assert [text.get_text() for text in axes.texts] == ["3", "5", "8"]
