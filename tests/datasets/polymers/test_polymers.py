"""Polymers: repeat units whose ends are joined, copolymers, the published sets, and files with rows
that cannot be read.
"""

import csv
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

pytest.importorskip("rdkit")

import graphformer as gf
from graphformer.datasets import CopolymerGraphs, PolymerGraphs, polymer_graph
from graphformer.datasets.polymers.smiles import EDGE_NAMES, NODE_NAMES

BLOCK = "<1-2:0.375:0.375<1-1:0.375:0.375<2-2:0.375:0.375<3-4:0.375:0.375<3-3:0.375:0.375"
BLOCK += "<4-4:0.125:0.125<1-3:0.125:0.125<1-4:0.125:0.125<2-3:0.125:0.125<2-4:0.125:0.125"
RANDOM = "<" + "<".join(f"{a}-{b}:0.25:0.25" for a in range(1, 5) for b in range(a, 5))
ALTERNATING = "<1-3:0.5:0.5<1-4:0.5:0.5<2-3:0.5:0.5<2-4:0.5:0.5"
PAIR = "[*:1]c1cc(F)c([*:2])cc1F.[*:3]c1c(O)cc(O)c([*:4])c1O"


def column(data, name):
    return (
        data.edge_attr[:, EDGE_NAMES.index(name)]
        if name in EDGE_NAMES
        else data.x[:, NODE_NAMES.index(name)]
    )


def rows(table: torch.Tensor) -> Counter:
    return Counter(tuple(row) for row in table.tolist())


# --- repeat units


def test_polypropylene():
    data = polymer_graph("*CC(*)C")
    assert (
        data.x.shape == (3, len(NODE_NAMES))
        and data.edge_attr.shape == (6, len(EDGE_NAMES))
        and data.is_undirected()
    )
    periodic = column(data, "periodic") == 1
    assert data.edge_index[:, ~periodic].T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert data.edge_index[:, periodic].T.tolist() == [[1, 0], [0, 1]]
    # The bond to the next unit counts, and is no hydrogen.
    assert column(data, "degree_2").tolist() == [1, 0, 0] and column(data, "degree_3").tolist() == [
        0,
        1,
        0,
    ]
    assert [data.x[i, NODE_NAMES.index("hydrogens_0") :][:5].argmax().item() for i in range(3)] == [
        2,
        1,
        3,
    ]
    assert (
        column(data, "end").tolist() == [1, 1, 0]
        and column(data, "element_C").all()
        and column(data, "hybrid_sp3").all()
    )
    assert (
        data.node_weight.tolist() == [1, 1, 1]
        and data.group_0.tolist() == [0, 0, 0]
        and column(data, "weight").all()
    )


def test_ends_at_one_atom_and_at_neighbours():
    """An atom receives one message for each bond that it has in the chain."""
    one, two = polymer_graph("*C*"), polymer_graph("*CC*")
    assert one.edge_index.tolist() == [[0, 0], [0, 0]] and column(one, "periodic").tolist() == [
        1,
        1,
    ]
    assert (
        Counter(map(tuple, two.edge_index.T.tolist())) == {(0, 1): 2, (1, 0): 2}
        and column(two, "periodic").sum() == 2
    )
    assert rows(two.x) == {row: 2 * n for row, n in rows(one.x).items()}


def test_bonds_between_units_are_those_of_the_chain():
    periodic = {text: polymer_graph(text) for text in ("*c1ccc(*)s1", "*CC*", "*=CC=*")}
    periodic = {
        text: data.edge_attr[column(data, "periodic") == 1][0] for text, data in periodic.items()
    }
    assert [row[EDGE_NAMES.index("conjugated")].item() for row in periodic.values()] == [1, 0, 1]
    assert [row[EDGE_NAMES.index("bond_double")].item() for row in periodic.values()] == [0, 0, 1]


@pytest.mark.parametrize(
    "texts",
    [
        ("*NCCCCCC(=O)*", "*CCCC(=O)NCC*", "*C(=O)NCCCCC*"),
        ("*c1ccc(C=C*)cc1", "*C=Cc1ccc(*)cc1", "*=Cc1ccc(C=*)cc1"),
    ],
)
def test_where_the_chain_is_cut_does_not_matter(texts):
    """Nylon 6 and poly(phenylene vinylene): the features are the same but for those that tell the
    cut.
    """
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
        (
            "*CC(*)(C)(C)C",
            r"is no SMILES: Explicit valence for atom # 2 C, 5, is greater than permitted",
        ),
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


@pytest.mark.parametrize(
    "rule, sums", [(ALTERNATING, [1, 1, 1, 1]), (RANDOM, [1, 1, 1, 1]), (BLOCK, [1, 1, 1, 0.75])]
)
def test_weights_between_monomers(rule, sums):
    """What an end receives sums to 1; the published block copolymers have 0.75 at end 4."""
    data = polymer_graph(f"{PAIR}|0.25|0.75|{rule}")
    assert data.num_nodes == 8 + 9 and data.group_0.tolist() == [0] * 8 + [1] * 9
    assert data.node_weight.tolist() == [0.25] * 8 + [0.75] * 9 and torch.equal(
        column(data, "fraction"), data.node_weight
    )
    between = column(data, "periodic") == 1
    received = torch.zeros(17).index_add(
        0, data.edge_index[1, between], column(data, "weight")[between]
    )
    assert (
        received[column(data, "end") == 1].tolist() == sums
        and received[column(data, "end") == 0].sum() == 0
    )
    assert (
        column(data, "weight")[~between].unique().tolist() == [1]
        and (column(data, "conjugated")[between] == 1).all()
    )
    assert (data.group_0[data.edge_index[:, ~between]].diff(dim=0) == 0).all()


def test_weights_have_a_direction():
    data = polymer_graph("[*:1]CO[*:2].[*:3]CS[*:4]|0.5|0.5|<2-3:0.7:0.3")
    between = column(data, "periodic") == 1
    assert data.edge_index[:, between].T.tolist() == [[1, 2], [2, 1]]
    torch.testing.assert_close(column(data, "weight")[between], torch.tensor([0.7, 0.3]))


def test_atoms_monomers_and_the_polymer_are_levels_of_the_model():
    batch = Batch.from_data_list(
        [polymer_graph(f"{PAIR}|0.5|0.5|{rule}") for rule in (ALTERNATING, BLOCK)]
        + [polymer_graph("*C*")]
    )
    net = gf.GraphTransformer(
        len(NODE_NAMES),
        len(EDGE_NAMES),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        levels=("group_0",),
    ).eval()
    out = net(batch, output_graphs=True).prediction
    # architectures are told apart
    assert out.shape == (3, 1) and out.isfinite().all() and out.unique().numel() == 3


def received(data):
    """What each atom receives over bonds to other units."""
    between = column(data, "periodic") == 1
    return torch.zeros(data.num_nodes).index_add(
        0, data.edge_index[1, between], column(data, "weight")[between]
    )


def test_a_degree_of_polymerisation_is_a_feature_of_all_atoms():
    plain, long = (polymer_graph(f"{PAIR}|0.25|0.75|{ALTERNATING}{end}") for end in ("", "~502.5"))
    assert not column(plain, "log_length").any() and column(
        long, "log_length"
    ).unique().tolist() == pytest.approx([math.log10(502.5)])
    same = [i for i, name in enumerate(NODE_NAMES) if name != "log_length"]
    assert torch.equal(plain.x[:, same], long.x[:, same]) and torch.equal(
        plain.edge_attr, long.edge_attr
    )
    one = polymer_graph("[*:1]CC[*:2]|1|<1-2:1:1~80")
    assert column(one, "log_length").tolist() == pytest.approx([math.log10(80)] * 2) and received(
        one
    ).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("<1-3:nan:0.5", "the weights of the bond '1-3:nan:0.5' are probabilities, from 0 to 1"),
        ("<1-3:-0.5:0.5", "are probabilities, from 0 to 1"),
        ("<1-3:0.5:1.5", "are probabilities, from 0 to 1"),
        (
            "<1-3:1:1<2-3:0.5:0.5",
            "end 3 receives weights that sum to 1.5; they are probabilities, up to 1",
        ),
        ("<1-3:0.2:0.2<3-1:0.2:0.2", "the bond '3-1:0.2:0.2' is there twice"),
        (
            "<1-1:0.2:0.4",
            "the bond '1-1:0.2:0.4' of an end to its own kind has one weight, written twice",
        ),
        (
            "<1-3:0.5:0.5~0.5",
            "the degree of polymerisation '0.5' after ~ must be a number of at least 1",
        ),
        ("<1-3:0.5:0.5~", "the degree of polymerisation '' after ~"),
        ("<1-3:0.5:0.5~inf", "the degree of polymerisation 'inf' after ~"),
        ("1-3:0.5:0.5", "'1-3:0.5:0.5' is no list of bonds"),
    ],
)
def test_bonds_that_are_no_probabilities_are_told(rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        polymer_graph(f"{PAIR}|0.5|0.5|{rules}")


# --- stereo, isotopes, radicals


def labels(text):
    """CIP labels of atoms, and of bonds (once), as the columns have them."""
    data = polymer_graph(text)
    atoms = [
        "RS"[int(s)] if r or s else ""
        for r, s in zip(column(data, "chirality_r"), column(data, "chirality_s"), strict=True)
    ]
    e, z = column(data, "stereo_e"), column(data, "stereo_z")
    assert torch.equal(e * column(data, "bond_double"), e) and torch.equal(
        z * column(data, "bond_double"), z
    )
    return sorted(filter(None, atoms)), "E" * int(e.sum() / 2) + "Z" * int(z.sum() / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*O[C@@H](C)C(=O)*", (["S"], "")),  # PLLA, from L-lactic acid, which is S
        ("*O[C@H](C)C(=O)*", (["R"], "")),  # PDLA
        ("*O[C@H](C)CC(=O)*", (["R"], "")),  # bacterial poly(3-hydroxybutyrate) is R
        ("*C/C(C)=C\\C*", ([], "Z")),  # natural rubber
        ("*C/C(C)=C/C*", ([], "E")),  # gutta-percha
        ("*/C=C/*", ([], "E")),  # polyacetylene; both ends are at the double bond
        ("*/C=C\\*", ([], "Z")),
        ("*/C=C/C=C\\*", ([], "EZ")),
        ("*N/N=N/*", ([], "E")),
        ("*C(C/C=C/C)C*", ([], "E")),
        ("*C[C@H](C)C[C@H](C)*", (["R", "R"], "")),  # isotactic
        ("*C[C@H](C)C[C@@H](C)*", (["R", "S"], "")),  # syndiotactic
        ("*[C@](C)(F)*", (["R"], "")),  # both ends at the centre
        ("*C[C@H](*)C", (["S"], "")),
        ("*CC(*)C", ([], "")),
        # the side group takes the first place, and the others keep their order
        ("*C[C@H](C(C)C)(*)", (["R"], "")),
        ("*C[C@H](C)N(C)[C@@H](C)C*", (["S", "S"], "")),
    ],
)
def test_stereo_is_told_by_cip_labels(text, expected):
    assert labels(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("*O[C@@H](C)C(=O)*", "*O[C@H](C)C(=O)*"),
        ("*C[C@H](*)C", "*C[C@@H](*)C"),
        ("*/C=C/*", "*/C=C\\*"),
        ("*C/C=C/C*", "*C/C=C\\C*"),
        ("*C[C@H](C)C[C@H](C)*", "*C[C@H](C)C[C@@H](C)*"),
        ("*[C@@H]1CC[C@@H](*)C1", "*[C@@H]1CC[C@H](*)C1"),
        ("[*:1]C[C@H](C)[*:2]|1|<1-2:1:1", "[*:1]C[C@@H](C)[*:2]|1|<1-2:1:1"),
        ("[*:1]/C=C/[*:2]|1|<1-2:1:1", "[*:1]/C=C\\[*:2]|1|<1-2:1:1"),
        ("*C[13CH2]*", "*CC*"),
        ("*C([2H])([2H])C*", "*C([H])([H])C*"),
        ("*C[CH]C*", "*CCC*"),
        ("*CC(*)C(=O)[O-].[Na+]", "*CC(*)C(=O)[O-].[K+]"),
    ],
)
def test_polymers_that_differ_have_different_graphs(one, other):
    a, b = polymer_graph(one), polymer_graph(other)
    assert rows(a.x) != rows(b.x) or rows(a.edge_attr) != rows(b.edge_attr)


@pytest.mark.parametrize(
    "texts",
    [
        (
            "*O[C@@H](C)C(=O)*",
            "*[C@@H](C)C(=O)O*",
            "*C(=O)O[C@@H](C)*",
            "*C(=O)[C@H](C)O*",
            "C[C@H](O*)C(*)=O",
        ),
        ("*C/C=C\\C*", "*/C=C\\CC*", "C(/C=C\\C*)*", "*CC/C=C\\*"),
        ("*/C=C/c1ccc(*)cc1", "*c1ccc(/C=C/*)cc1", "*/C=C/c1ccc(cc1)*"),
    ],
)
def test_stereo_does_not_depend_on_where_the_chain_is_cut(texts):
    own = [i for i, name in enumerate(NODE_NAMES) if name != "end"]
    graphs = [polymer_graph(text) for text in texts]
    bonds = [i for i, name in enumerate(EDGE_NAMES) if name != "periodic"]
    assert labels(texts[0]) != ([], "")
    for graph in graphs[1:]:
        assert rows(graph.x[:, own]) == rows(graphs[0].x[:, own])
        assert rows(graph.edge_attr[:, bonds]) == rows(graphs[0].edge_attr[:, bonds])


def test_atoms_in_any_order_give_the_same_labels():
    """Random SMILES of one unit: the order of bonds, by which rdkit keeps chirality, is another
    each time.
    """
    from rdkit import Chem

    unit = Chem.MolFromSmiles("*O[C@@H](CC/C=C\\[C@H](F)Cl)[C@](C)(N)C(=O)*")
    for dummy, name in zip(
        [a for a in unit.GetAtoms() if not a.GetAtomicNum()], (1, 2), strict=True
    ):
        dummy.SetIsotope(name)
    texts = {Chem.MolToSmiles(unit, doRandom=True, canonical=False) for _ in range(20)}
    assert len(texts) > 10
    first = polymer_graph(texts.pop())
    assert (
        column(first, "chirality_r").sum() + column(first, "chirality_s").sum() == 3
        and column(first, "stereo_z").sum() == 2
    )
    for text in texts:
        other = polymer_graph(text)
        assert rows(other.x) == rows(first.x) and rows(other.edge_attr) == rows(first.edge_attr)


@pytest.mark.parametrize("end", ["[*H]", "[*+]", "[*H2-]"])
def test_ends_with_hydrogens_or_a_charge_are_refused_by_name(end):
    with pytest.raises(ValueError, match="an end \\* has no charge and no hydrogens"):
        polymer_graph(f"{end}CC*")


def test_isotopes_radicals_and_charges_are_columns():
    data = polymer_graph("*C([2H])([13CH2])[14N+](C)(C)*")
    assert (
        sorted(column(data, "isotope").tolist()) == [0, 0, 0, 0, 1, 1]
        or column(data, "isotope").sum() == 2
    )
    assert column(data, "radicals").sum() == 1 and column(data, "charge").sum() == 1


def test_basic_features_are_the_first_columns_and_tell_what_they_leave_out():
    full = polymer_graph("*O[C@@H](C)C(=O)*")
    with pytest.warns(
        UserWarning,
        match=r"'\*O\[C@@H\]\(C\)C\(=O\)\*': the basic features do not tell stereo \(R/S, E/Z\)",
    ):
        basic = polymer_graph("*O[C@@H](C)C(=O)*", features="basic")
    assert torch.equal(basic.x, full.x[:, : basic.x.shape[1]]) and torch.equal(
        basic.edge_attr, full.edge_attr[:, : basic.edge_attr.shape[1]]
    )
    assert (
        basic.x.shape[1] == len(NODE_NAMES) - 6 and basic.edge_attr.shape[1] == len(EDGE_NAMES) - 2
    )
    with pytest.warns(
        UserWarning, match="the basic features do not tell the degree of polymerisation"
    ):
        polymer_graph(f"{PAIR}|0.25|0.75|{ALTERNATING}~80", features="basic")
    with pytest.raises(ValueError, match="unknown features 'all'; known: full, basic"):
        polymer_graph("*C*", features="all")


# --- what may stand beside a unit


def test_counter_ions_are_nodes_of_their_own_group():
    salt, acid = polymer_graph("[Na+].*CC(*)C(=O)[O-]"), polymer_graph("*CC(*)C(=O)[O-]")
    sodium = int((column(salt, "charge") == 1).nonzero())
    assert (
        salt.num_nodes == 6 and salt.num_edges == acid.num_edges and sodium not in salt.edge_index
    )
    assert (
        salt.group_0.tolist() == [int(i == sodium) for i in range(6)]
        and salt.node_weight.tolist() == [1.0] * 6
    )
    assert torch.equal(salt.x[[i for i in range(6) if i != sodium]], acid.x)
    assert column(salt, "other_number")[sodium].item() == pytest.approx(0.11)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("*CC(*)C |$star_e;;;star_e;$|", "*CC(*)C"),
        ("*CC(*)C |$_R1;;;_R2;$| polypropylene", "*CC(*)C"),
        ("*CC(*)C |$_AP1;;;_AP2;$,(0,0;1,0;1,1;2,1;3,1)|", "*CC(*)C"),
        ("*CC(*)C polypropylene, isotactic", "*CC(*)C"),
        ("  *CC(*)C\t", "*CC(*)C"),
        ("*C[CH]C* |^1:2|", "*C[CH]C*"),
        ("[1*]CC([2*])C", "*CC(*)C"),
        ("[*:1]CC([*:2])C", "*CC(*)C"),
        ("*C([H])([H])C(*)C", "*CC(*)C"),
        (f"{PAIR} | 0.5 | 0.5 | {ALTERNATING}", f"{PAIR}|0.5|0.5|{ALTERNATING}"),
    ],
)
def test_names_labels_and_spaces_do_not_change_the_graph(text, same):
    a, b = polymer_graph(text), polymer_graph(same)
    assert (
        torch.equal(a.x, b.x)
        and torch.equal(a.edge_index, b.edge_index)
        and torch.equal(a.edge_attr, b.edge_attr)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*CC(*)C |garbage|", "is no CXSMILES: what is between the bars does not parse"),
        (
            "*CC(*)C |$Q_e;;;star_e;$|",
            "the label 'Q_e' of CXSMILES is not read; known: star_e, _R1, _AP1, of an end *",
        ),
        ("*CC* |Sg:n:1,2:8:ht|", "'Sg:n:1,2:8:ht' of CXSMILES is not read"),
        ("*C[C@H](C)* |&1:2|", "'&1:2' of CXSMILES is not read"),
        ("CC>>CO", "is a reaction; give the polymer alone"),
        ("{[$]CC[$]}", "is BigSMILES by its braces, which is not read"),
        ("*CC* *CO*", "holds more than one text; give each polymer alone"),
        (
            "*CC*.*CO*",
            "and this has 4 ends at 2 molecules; write a copolymer with its fractions and bonds",
        ),
        ("[Na+].[Cl-]", "and this has 0 ends"),
        ("*C.[Na+]", "and this has 1 ends"),
        (
            "*c1c(*)cc(*)c(*)c1",
            "and this has 4 ends; number them and say how they are bonded, as in "
            "[*:1]...[*:4]|1|<1-3:1:1<2-4:1:1",
        ),
        ("*1CC1", "each end * must have one bond, to an atom"),
        ("*C[*-]", "an end * has no charge and no hydrogens, and [*-] has"),
        ("*c1cccc1*", "is no SMILES: "),
        ("*c1ccc(*)n1", "is no SMILES: "),
        ("*C[Pt@SP1](F)(Cl)(Br)*", "of Pt is no feature of a graph; write it without"),
        (
            f"{PAIR}.[Na+]|0.5|0.5|{ALTERNATING}",
            "has 3 monomers and 2 fractions; counter-ions and solvents count as monomers",
        ),
        (f"{PAIR}|nan|0.5|{ALTERNATING}", "must not be negative and must sum to 1"),
        ("*CC* |half|0.5|<1-2:1:1", "is no"),
    ],
)
def test_what_is_not_read_is_told_by_name(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        polymer_graph(text)
    assert text.split()[0][:9] in str(told.value)


def test_a_ladder_is_written_with_numbered_ends():
    data = polymer_graph("[*:1]c1c([*:2])cc([*:3])c([*:4])c1|1|<1-3:1:1<2-4:1:1")
    assert (
        column(data, "periodic").sum() == 4
        and column(data, "end").sum() == 4
        and received(data).max() == 1
    )


def test_no_text_is_a_type_error():
    with pytest.raises(TypeError, match="a polymer must be a text, got float nan"):
        polymer_graph(math.nan)


def test_a_very_long_unit_is_read():
    data = polymer_graph("*" + "CO" * 1500 + "*")
    assert data.num_nodes == 3000 and data.num_edges == 6000


# --- files of one's own


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "name,psmiles,gap,e\n"
        "a,*CC*,8.1,1\n"
        "b,*CC(,1.0,1\n"
        "c,*CC(*)F,,2\n"
        "d,*CC(*)C,much,3\n"
        f"e,{PAIR}|0.5|0.5|{BLOCK},2.5,4\n"
    )
    return path


def test_rows_that_cannot_be_read_are_named_and_the_others_kept(table, tmp_path):
    told = r"mine.csv: 1 labels are taken as missing \(row 4, column 'gap': 'much' is no number"
    with (
        pytest.warns(
            UserWarning, match=r"PolymerGraphs: 1 left out, 4 kept \(row 2: '\*CC\(' is no SMILES"
        ),
        pytest.warns(UserWarning, match=told),
    ):
        made = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert (
        [data.row for data in made] == [1, 3, 4, 5]
        and made.target_names == ("gap", "e")
        and len(made.skipped) == 1
    )
    torch.testing.assert_close(
        made.y, torch.tensor([[8.1, 1], [torch.nan, 2], [torch.nan, 3], [2.5, 4]]), equal_nan=True
    )
    with pytest.warns(UserWarning, match=told):  # the label is missing from the kept graphs too
        again = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert again.skipped == made.skipped and again.cache_path == made.cache_path
    table.write_text(table.read_text().replace("*CC(,", "*CCO*,").replace("much", "3"))
    changed = PolymerGraphs(tmp_path / "root", file=table, text="psmiles", targets=("gap", "e"))
    assert len(changed) == 5 and changed.skipped == []


def test_bad_settings_are_named(table):
    with pytest.raises(ValueError, match="unknown property 'Tg'; known: Egc, Egb, Ei, Eea"):
        PolymerGraphs(None, "Tg")
    with pytest.raises(ValueError, match="has no column 'smiles'; it has name, psmiles, gap, e"):
        PolymerGraphs(None, file=table, targets=("gap",))
    with pytest.raises(ValueError, match=r"file: 'nothing.csv' is no file"):
        PolymerGraphs(None, file="nothing.csv")


@pytest.mark.parametrize("content", [b"\xa8\xff, \x80", b"smiles,value\n*CC*,\xff\n"])
def test_a_file_that_is_no_table_is_named(content, tmp_path):
    (tmp_path / "odd.csv").write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"odd.csv cannot be read as a table .* give a CSV file in UTF-8, with a header",
    ):
        PolymerGraphs(None, file=tmp_path / "odd.csv")


def test_texts_without_targets_are_for_predictions(table):
    with pytest.warns(UserWarning, match="1 left out, 4 kept"):
        made = PolymerGraphs(None, file=table, text="psmiles", targets=())
    assert len(made) == 4 and "y" not in made[0]


def test_labels_of_every_kind_are_numbers_missing_or_told_by_row_and_column(tmp_path):
    fields = {"3.2": 3.2, " 3.2 ": 3.2, "-1e3": -1000.0, "\u22122.5": -2.5, "0": 0.0}
    missing = ("", "N/A", "-", "nan", "None", "NULL", "#N/A", "?")
    wrong = {
        "inf": "is infinite",
        "1e400": "is infinite",
        "1e39": "beyond float32",
        "1,5": "write a decimal point, as in 1.5",
    }
    wrong |= {
        "1 234,5": "write a decimal point",
        "12 K": "write the number alone",
        ">300": "write the value alone",
        "1_000": "is no number",
    }
    every = [*fields, *missing, *wrong]
    path = tmp_path / "labels.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["smiles", "gap", "e"], *(["*CC*", one, "7"] for one in every)])
    with pytest.warns(UserWarning) as told:
        made = PolymerGraphs(None, file=path, targets=("gap", "e"))
    assert (
        len(made) == len(every)
        and made.skipped == []
        and made.y[:, 1].tolist() == [7.0] * len(every)
    )
    expected = [*fields.values(), *[math.nan] * (len(missing) + len(wrong))]
    torch.testing.assert_close(made.y[:, 0], torch.tensor(expected), equal_nan=True)
    (text,) = [str(one.message) for one in told]
    assert f"labels.csv: {len(wrong)} labels are taken as missing" in text
    assert (
        f"row {len(fields) + len(missing) + 1}, column 'gap': inf is no value: it is infinite"
        in text
    )


def test_rows_of_another_length_never_shift_a_label(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("smiles,gap,e\n*CC*,1,2\n*CO*,poly,ether,3,4\n*CS*,5\n\n,,\n*CN*,6,7,\n")
    with (
        pytest.warns(
            UserWarning,
            match=r"1 left out, 3 kept \(row 2: 5 cells under 3 columns; put quotes around cells "
            r"that hold commas",
        ),
        pytest.warns(
            UserWarning,
            match=r"1 labels are taken as missing \(row 3, column 'e': the row ends before it\)",
        ),
    ):
        made = PolymerGraphs(None, file=path, targets=("gap", "e"))
    assert [data.row for data in made] == [1, 3, 4]
    torch.testing.assert_close(
        made.y, torch.tensor([[1, 2], [5, torch.nan], [6, 7]]), equal_nan=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("gap", "gap")}, "targets: the column 'gap' is named twice"),
        (
            {"targets": ("smiles",)},
            "targets: the column 'smiles' is named twice in text and targets",
        ),
        ({"targets": ("e",)}, "has the column 'e' 2 times; give each column a name of its own"),
    ],
)
def test_columns_that_are_ambiguous_are_refused(options, message, tmp_path):
    (tmp_path / "a.csv").write_text("smiles,gap,e,e\n*CC*,1,2,3\n")
    with pytest.raises(ValueError, match=message):
        PolymerGraphs(None, file=tmp_path / "a.csv", **options)


def test_a_model_without_stereo_is_told_what_it_does_not_read(tmp_path):
    (tmp_path / "a.csv").write_text("smiles\n*CC*\n*C[C@H](*)C\n*/C=C/*\n")
    with pytest.warns(
        UserWarning, match=r"do not tell all of 2 rows \(row 2: stereo \(R/S, E/Z\), row 3: stereo"
    ):
        made = PolymerGraphs(None, file=tmp_path / "a.csv", targets=(), features="basic")
    assert made[0].x.shape[1] == len(made.node_names) < len(NODE_NAMES) and made[0].edge_attr.shape[
        1
    ] == len(made.edge_names)


# --- published sets


@pytest.mark.parametrize(
    "name, count", [("Egb", 561), ("Ei", 370), pytest.param("Egc", 3380, marks=pytest.mark.long)]
)
def test_homopolymers_are_what_was_published(data_dir, name, count):
    folder = data_dir / "polymer-dft"
    if not folder.is_dir():
        pytest.skip("the files of polymer-dft are not here")
    made = PolymerGraphs(None, name, raw=folder)
    with open(folder / f"{name}.csv") as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert (
        len(made) == count
        and made.skipped == []
        and made.y.shape == (count, 1)
        and made.target_names == (name,)
    )
    np.testing.assert_allclose(made.y[:, 0], values, rtol=1e-6)
    periodic = [column(data, "periodic").sum().item() for data in made]
    assert (
        set(periodic) == {2} and made.x.isfinite().all() and made.x.shape[1] == len(made.node_names)
    )
    assert [len(test) for _, test in made.folds(5, seed=0)] == [
        count // 5 + (i < count % 5) for i in range(5)
    ]


@pytest.mark.long
def test_copolymers_and_their_folds_are_what_was_published(data_dir):
    folder = data_dir / "polymer-vipea"
    if not folder.is_dir():
        pytest.skip("the files of polymer-vipea are not here")
    made = CopolymerGraphs(None, raw=folder / "cv10-random-polymer")
    assert (
        len(made) == 42_966
        and made.skipped == []
        and made.y.shape == (42_966, 2)
        and made.y.isfinite().all()
    )
    assert len({data.text for data in made}) == 42_966
    assert made.monomer.bincount().tolist() == [42_966 // 9] * 9
    for k in range(10):
        parts = made.random_fold(k)
        assert len(parts[2]) == 4297 - (k > 5) and [
            set(part.fold.tolist()) for part in parts[1:]
        ] == [{(k - 1) % 10}, {k}]
        assert sum(map(len, parts)) == 42_966
    master = np.genfromtxt(
        folder / "dataset-master_chemprop.csv",
        delimiter=",",
        skip_header=1,
        usecols=(1, 2),
        comments=None,
    )
    published = np.load(folder / "cv9-monomer_split.npz")
    for k in range(9):
        for part, name in zip(made.monomer_fold(k), ("train", "val", "test"), strict=True):
            ours = torch.stack([made.y[i] for i in part.indices()]).numpy()
            theirs = master[published[f"{name}_idx_{k}"]].astype(np.float32)
            assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
        first = [
            {made[i].text.split("|")[0].split(".")[0] for i in part.indices()}
            for part in made.monomer_fold(k)
        ]
        assert list(map(len, first)) == [7, 1, 1] and len(set.union(*first)) == 9
    with pytest.raises(ValueError, match="k must be from 0 to 9, got 10"):
        made.random_fold(10)
