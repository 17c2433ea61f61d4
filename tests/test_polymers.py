"""Polymers: repeat units whose ends are joined, copolymers, the published sets, and files with rows that cannot be read."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

pytest.importorskip("rdkit")

import graphformer as gf
from graphformer.datasets import CopolymerGraphs, PolymerGraphs, polymer_graph
from graphformer.datasets.smiles import EDGE_NAMES, NODE_NAMES

BLOCK = "<1-2:0.375:0.375<1-1:0.375:0.375<2-2:0.375:0.375<3-4:0.375:0.375<3-3:0.375:0.375<4-4:0.125:0.125"
BLOCK += "<1-3:0.125:0.125<1-4:0.125:0.125<2-3:0.125:0.125<2-4:0.125:0.125"
RANDOM = "<" + "<".join(f"{a}-{b}:0.25:0.25" for a in range(1, 5) for b in range(a, 5))
ALTERNATING = "<1-3:0.5:0.5<1-4:0.5:0.5<2-3:0.5:0.5<2-4:0.5:0.5"
PAIR = "[*:1]c1cc(F)c([*:2])cc1F.[*:3]c1c(O)cc(O)c([*:4])c1O"


def column(data, name):
    return data.edge_attr[:, EDGE_NAMES.index(name)] if name in EDGE_NAMES else data.x[:, NODE_NAMES.index(name)]


def rows(table: torch.Tensor) -> Counter:
    return Counter(tuple(row) for row in table.tolist())


# --- repeat units


def test_polypropylene():
    data = polymer_graph("*CC(*)C")
    assert data.x.shape == (3, len(NODE_NAMES)) and data.edge_attr.shape == (6, len(EDGE_NAMES)) and data.is_undirected()
    periodic = column(data, "periodic") == 1
    assert data.edge_index[:, ~periodic].T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert data.edge_index[:, periodic].T.tolist() == [[1, 0], [0, 1]]
    # The bond to the next unit counts, and is no hydrogen.
    assert column(data, "degree_2").tolist() == [1, 0, 0] and column(data, "degree_3").tolist() == [0, 1, 0]
    assert [data.x[i, NODE_NAMES.index("hydrogens_0") :][:5].argmax().item() for i in range(3)] == [2, 1, 3]
    assert column(data, "end").tolist() == [1, 1, 0] and column(data, "element_C").all() and column(data, "hybrid_sp3").all()
    assert data.node_weight.tolist() == [1, 1, 1] and data.group_0.tolist() == [0, 0, 0] and column(data, "weight").all()


def test_ends_at_one_atom_and_at_neighbours():
    """An atom receives one message for each bond that it has in the chain."""
    one, two = polymer_graph("*C*"), polymer_graph("*CC*")
    assert one.edge_index.tolist() == [[0, 0], [0, 0]] and column(one, "periodic").tolist() == [1, 1]
    assert Counter(map(tuple, two.edge_index.T.tolist())) == {(0, 1): 2, (1, 0): 2} and column(two, "periodic").sum() == 2
    assert rows(two.x) == {row: 2 * n for row, n in rows(one.x).items()}


def test_bonds_between_units_are_those_of_the_chain():
    periodic = {text: polymer_graph(text) for text in ("*c1ccc(*)s1", "*CC*", "*=CC=*")}
    periodic = {text: data.edge_attr[column(data, "periodic") == 1][0] for text, data in periodic.items()}
    assert [row[EDGE_NAMES.index("conjugated")].item() for row in periodic.values()] == [1, 0, 1]
    assert [row[EDGE_NAMES.index("bond_double")].item() for row in periodic.values()] == [0, 0, 1]


@pytest.mark.parametrize(
    "texts", [("*NCCCCCC(=O)*", "*CCCC(=O)NCC*", "*C(=O)NCCCCC*"), ("*c1ccc(C=C*)cc1", "*C=Cc1ccc(*)cc1", "*=Cc1ccc(C=*)cc1")]
)
def test_where_the_chain_is_cut_does_not_matter(texts):
    """Nylon 6 and poly(phenylene vinylene): the features are the same but for those that tell the cut."""
    graphs = [polymer_graph(text) for text in texts]
    of_nodes = [i for i, name in enumerate(NODE_NAMES) if name != "end"]
    of_edges = [i for i, name in enumerate(EDGE_NAMES) if name != "periodic"]
    assert rows(graphs[0].x[:, of_nodes]) == rows(graphs[1].x[:, of_nodes])
    assert rows(graphs[0].edge_attr[:, of_edges]) == rows(graphs[1].edge_attr[:, of_edges])
    assert all(column(g, "periodic").sum() == 2 for g in graphs)
    assert rows(graphs[0].x[:, of_nodes]) == rows(graphs[2].x[:, of_nodes])


@pytest.mark.parametrize(
    "text, message",
    [
        ("*CC(C", r"'\*CC\(C' is no SMILES: it does not parse"),
        ("*CC(*)(C)(C)C", r"is no SMILES: Explicit valence for atom # 2 C, 5, is greater than permitted"),
        ("CC", r"a repeat unit is one molecule with two ends \*, and this has 0 ends"),
        ("*CC(*)C*", "and this has 3 ends"),
        ("*C.C*", "a repeat unit is one molecule"),
        ("", "and this has 0 ends"),
        ("**", r"each end \* must have one bond, to an atom"),
        ("C*C*", r"each end \* must have one bond"),
        ("*=CC*", "the ends cannot be joined, their bonds are double and single"),
        (f"{PAIR}|0.5|{ALTERNATING}", "has 2 monomers and 1 fractions"),
        (f"{PAIR}|0.5|x|{ALTERNATING}", "must be numbers"),
        (f"{PAIR}|0.5|0.6|{ALTERNATING}", "must sum to 1"),
        (f"{PAIR}|0.5|0.5|<1-3:0.5", "the bond '1-3:0.5' must be two ends and two weights"),
        (f"{PAIR}|0.5|0.5|<1-7:0.5:0.5", r"names an end that is not there; ends: \[1, 2, 3, 4\]"),
        ("*CC*.[*:3]C[*:4]|0.5|0.5|<3-4:1:1", "must be numbered"),
    ],
)
def test_what_cannot_be_read_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        polymer_graph(text)


# --- copolymers


@pytest.mark.parametrize("rule, sums", [(ALTERNATING, [1, 1, 1, 1]), (RANDOM, [1, 1, 1, 1]), (BLOCK, [1, 1, 1, 0.75])])
def test_weights_between_monomers(rule, sums):
    """What an end receives sums to 1; the published block copolymers have 0.75 at end 4."""
    data = polymer_graph(f"{PAIR}|0.25|0.75|{rule}")
    assert data.num_nodes == 8 + 9 and data.group_0.tolist() == [0] * 8 + [1] * 9
    assert data.node_weight.tolist() == [0.25] * 8 + [0.75] * 9 and torch.equal(column(data, "fraction"), data.node_weight)
    between = column(data, "periodic") == 1
    received = torch.zeros(17).index_add(0, data.edge_index[1, between], column(data, "weight")[between])
    assert received[column(data, "end") == 1].tolist() == sums and received[column(data, "end") == 0].sum() == 0
    assert column(data, "weight")[~between].unique().tolist() == [1] and (column(data, "conjugated")[between] == 1).all()
    assert (data.group_0[data.edge_index[:, ~between]].diff(dim=0) == 0).all()


def test_weights_have_a_direction():
    data = polymer_graph("[*:1]CO[*:2].[*:3]CS[*:4]|0.5|0.5|<2-3:0.7:0.3")
    between = column(data, "periodic") == 1
    assert data.edge_index[:, between].T.tolist() == [[1, 2], [2, 1]]
    torch.testing.assert_close(column(data, "weight")[between], torch.tensor([0.7, 0.3]))


def test_atoms_monomers_and_the_polymer_are_levels_of_the_model():
    batch = Batch.from_data_list([polymer_graph(f"{PAIR}|0.5|0.5|{rule}") for rule in (ALTERNATING, BLOCK)] + [polymer_graph("*C*")])
    net = gf.GraphTransformer(len(NODE_NAMES), len(EDGE_NAMES), hidden_size=16, num_layers=2, num_heads=2, levels=("group_0",)).eval()
    out = net(batch, output_graphs=True).prediction
    assert out.shape == (3, 1) and out.isfinite().all() and out.unique().numel() == 3  # architectures are told apart


# --- files of one's own


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"name,psmiles,gap,e\na,*CC*,8.1,1\nb,*CC(,1.0,1\nc,*CC(*)F,,2\nd,*CC(*)C,much,3\ne,{PAIR}|0.5|0.5|{BLOCK},2.5,4\n")
    return path


def test_rows_that_cannot_be_read_are_named_and_the_others_kept(table, tmp_path):
    with pytest.warns(
        UserWarning, match=r"PolymerGraphs: 2 left out, 3 kept \(row 2: '\*CC\(' is no SMILES.*row 4: gap: 'much' is no number"
    ):
        made = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert [data.row for data in made] == [1, 3, 5] and made.target_names == ("gap", "e") and len(made.skipped) == 2
    torch.testing.assert_close(made.y, torch.tensor([[8.1, 1], [torch.nan, 2], [2.5, 4]]), equal_nan=True)
    again = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert again.skipped == made.skipped and again.cache_path == made.cache_path
    table.write_text(table.read_text().replace("*CC(,", "*CCO*,").replace("much", "3"))
    changed = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert len(changed) == 5 and changed.skipped == []


def test_bad_settings_are_named(table):
    with pytest.raises(ValueError, match="unknown property 'Tg'; known: Egc, Egb, Ei, Eea"):
        PolymerGraphs(None, "Tg")
    with pytest.raises(ValueError, match="has no column 'smiles'; its columns: name, psmiles, gap, e"):
        PolymerGraphs(None, file=table, targets=("gap",))
    with pytest.raises(ValueError, match=r"file: 'nothing.csv' is no file"):
        PolymerGraphs(None, file="nothing.csv")


@pytest.mark.parametrize("content", [b"\xa8\xff, \x80", b"smiles,value\n*CC*,\xff\n"])
def test_a_file_that_is_no_table_is_named(content, tmp_path):
    (tmp_path / "odd.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd.csv cannot be read as a table .* give a CSV file in UTF-8, with a header"):
        PolymerGraphs(None, file=tmp_path / "odd.csv")


def test_texts_without_targets_are_for_predictions(table):
    with pytest.warns(UserWarning, match="1 left out, 4 kept"):
        made = PolymerGraphs(None, file=table, text="psmiles", targets=())
    assert len(made) == 4 and "y" not in made[0]


# --- published sets


@pytest.mark.parametrize("name, count", [("Egb", 561), ("Ei", 370), pytest.param("Egc", 3380, marks=pytest.mark.slow)])
def test_homopolymers_are_what_was_published(data_dir, name, count):
    folder = data_dir / "polymer-dft"
    if not folder.is_dir():
        pytest.skip("the files of polymer-dft are not here")
    made = PolymerGraphs(None, name, raw=folder)
    with open(folder / f"{name}.csv") as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert len(made) == count and made.skipped == [] and made.y.shape == (count, 1) and made.target_names == (name,)
    np.testing.assert_allclose(made.y[:, 0], values, rtol=1e-6)
    periodic = [column(data, "periodic").sum().item() for data in made]
    assert set(periodic) == {2} and made.x.isfinite().all() and made.x.shape[1] == len(made.node_names)
    assert [len(test) for _, test in made.folds(5, seed=0)] == [count // 5 + (i < count % 5) for i in range(5)]


@pytest.mark.slow
def test_copolymers_and_their_folds_are_what_was_published(data_dir):
    folder = data_dir / "polymer-vipea"
    if not folder.is_dir():
        pytest.skip("the files of polymer-vipea are not here")
    made = CopolymerGraphs(None, raw=folder / "cv10-random-polymer")
    assert len(made) == 42_966 and made.skipped == [] and made.y.shape == (42_966, 2) and made.y.isfinite().all()
    assert len({data.text for data in made}) == 42_966
    assert made.monomer.bincount().tolist() == [42_966 // 9] * 9
    for k in range(10):
        parts = made.random_fold(k)
        assert len(parts[2]) == 4297 - (k > 5) and [set(part.fold.tolist()) for part in parts[1:]] == [{(k - 1) % 10}, {k}]
        assert sum(map(len, parts)) == 42_966
    master = np.genfromtxt(folder / "dataset-master_chemprop.csv", delimiter=",", skip_header=1, usecols=(1, 2), comments=None)
    published = np.load(folder / "cv9-monomer_split.npz")
    for k in range(9):
        for part, name in zip(made.monomer_fold(k), ("train", "val", "test"), strict=True):
            ours = torch.stack([made.y[i] for i in part.indices()]).numpy()
            theirs = master[published[f"{name}_idx_{k}"]].astype(np.float32)
            assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    with pytest.raises(ValueError, match="k must be from 0 to 9, got 10"):
        made.random_fold(10)
