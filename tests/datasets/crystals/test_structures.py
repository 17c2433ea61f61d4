"""Files of crystals: CIF with its symmetry, pymatgen's JSON, and all that is no ordered crystal,
each left out with its reason.
"""

import gzip
import json

import numpy as np
import pytest
import torch

pytest.importorskip("gemmi")

from graphformer.datasets import Crystal, CrystalStructures, crystal_graph
from graphformer.datasets.crystals.cif import read_cif
from graphformer.datasets.crystals.elements import ELEMENT_NAMES, SYMBOLS, place
from graphformer.datasets.crystals.pymatgen_json import read_json
from graphformer.datasets.readers import featuriser_of, graphs_of_files
from tests.datasets.crystals import structures
from tests.datasets.crystals.structures import ALL

ROCK_SALT = """data_nacl
_cell_length_a 5.64(1)
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na1+ 0 0 0 1
Cl1 Cl1- 0.5 0.5 0.5 1.0
"""


def cif_of(crystal):
    """A crystal in CIF, all atoms told."""
    lengths = np.linalg.norm(crystal.cell, axis=1)
    cosines = (crystal.cell @ crystal.cell.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(cosines[[1, 0, 0], [2, 2, 1]]))
    lines = ["data_x", "_symmetry_space_group_name_H-M 'P 1'"]
    lines += [f"_cell_length_{a} {v:.12g}" for a, v in zip("abc", lengths, strict=True)]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{a} {v:.12g}" for a, v in zip(names, angles, strict=True)]
    lines += ["loop_", "_atom_site_label", *(f"_atom_site_fract_{a}" for a in "xyz")]
    for i, (name, xyz) in enumerate(zip(crystal.elements, crystal.fractional, strict=True)):
        lines.append(f"{name}{i + 1} " + " ".join(f"{v:.12g}" for v in xyz))
    return "\n".join(lines) + "\n"


def write(folder, **files):
    for name, text in files.items():
        suffix = ".json" if text.lstrip()[:1] in ("[", "{") else ".cif"
        (folder / f"{name}{suffix}").write_text(text)
    return folder


def same(one, other):
    """Of equal neighbours and elements, whatever their cells and order."""
    a, b = crystal_graph(one), crystal_graph(other)
    assert sorted(a.atomic_number.tolist()) == sorted(b.atomic_number.tolist())
    np.testing.assert_allclose(
        np.sort(a.edge_attr[:, 0].numpy()), np.sort(b.edge_attr[:, 0].numpy()), atol=1e-5
    )


# --- reading


def test_symmetry_of_cif_is_expanded():
    read = read_cif(ROCK_SALT)
    assert len(read) == 1 and not read.notes
    assert read[0].elements == ("Na",) * 4 + ("Cl",) * 4 and read[0].formula == "ClNa"
    same(read[0], structures.rock_salt_cubic())


def test_operations_of_cif_are_expanded():
    text = ROCK_SALT.replace(
        "_symmetry_space_group_name_H-M 'F m -3 m'",
        "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n'x,y+1/2,z+1/2'\n'x+1/2,y,z+1/2'\n'x+1/2,y+1/2,z'",
    )
    same(read_cif(text)[0], structures.rock_salt_cubic())


@pytest.mark.parametrize("make", ALL)
def test_both_forms_give_the_crystal(make):
    crystal = make()
    same(read_cif(cif_of(crystal))[0], crystal)
    (back,) = read_json(json.dumps(crystal.as_dict()))
    assert back.elements == crystal.elements
    np.testing.assert_array_equal(back.cell, crystal.cell)
    np.testing.assert_array_equal(back.fractional, crystal.fractional)


def test_entries_and_lists_of_json():
    one = structures.diamond().as_dict()
    entry = {"@class": "ComputedStructureEntry", "structure": one, "energy": -9.1}
    read = read_json(json.dumps([one, entry]))
    assert [crystal.formula for crystal in read] == ["C", "C"]
    assert read.notes == ["not read: energy of the entry"]


def test_what_json_says_and_is_not_read():
    one = structures.rock_salt().as_dict()
    one["charge"] = 1
    one["sites"][0]["species"][0]["oxidation_state"] = 1
    one["sites"][1]["properties"] = {"magmom": 0.5}
    assert read_json(json.dumps(one)).notes == [
        "not read: charge, oxidation states, site property magmom"
    ]


BROKEN = {
    "partial": (ROCK_SALT.replace("0.5 1.0", "0.5 0.8(1)"), "site Cl1 is partly occupied (0.8)"),
    "unknown": (ROCK_SALT.replace("Cl1 Cl1-", "Q1 Q"), "site Q1: Q is no element"),
    "nowhere": (ROCK_SALT.replace("0.5 0.5 0.5", "0.5 ? 0.5"), "site Cl1 has coordinates that are"),
    "nocell": (
        ROCK_SALT.replace("_cell_length_b 5.64\n", ""),
        "no cell: _cell_length_b is missing",
    ),
    "zero": (ROCK_SALT.replace("5.64(1)", "0"), "no cell: _cell_length_a is 0"),
    "angle": (ROCK_SALT.replace("gamma 90", "gamma ?"), "no cell: _cell_angle_gamma is ?"),
    "flat": (ROCK_SALT.replace("90\n_sym", "180\n_sym"), "cell"),
    "group": (
        ROCK_SALT.replace("F m -3 m", "F oo"),
        "its symmetry cannot be read (H-M symbol (F oo",
    ),
    "twice": (
        ROCK_SALT.replace("Cl1 Cl1- 0.5 0.5 0.5", "K1 K1+ 0 0 0.01"),
        "0.0564 Å apart: one atom is there twice",
    ),
    "disorder": (
        ROCK_SALT.replace("_occupancy", "_disorder_group")
        .replace("0 0 0 1", "0 0 0 .")
        .replace("0.5 1.0", "0.5 2"),
        "site Cl1 is disordered (group 2)",
    ),
    "dummy": (
        ROCK_SALT.replace("_occupancy", "_calc_flag")
        .replace("0 0 0 1", "0 0 0 d")
        .replace("0.5 1.0", "0.5 dum"),
        "site Cl1 is a dummy",
    ),
    "macro": (
        "data_1abc\nloop_\n_atom_site.id\n_atom_site.Cartn_x\n1 0.5\n",
        "holds no crystal (it is mmCIF, of macromolecules: read it as a protein",
    ),
    "text": ("nothing of the kind", "cannot be read as CIF"),
    "half": ('{"lattice": ', "cannot be read as JSON"),
    "other": ('{"lattice": 3}', "holds no crystal (a dictionary with 'lattice' and 'sites'"),
    "nothing": ("[]", "holds no crystal (an empty list)"),
}


def spoilt(change):
    one = structures.rock_salt().as_dict()
    change(one)
    return json.dumps(one)


BROKEN |= {
    "share": (
        spoilt(lambda one: one["sites"][0]["species"].append({"element": "K", "occu": 0.5})),
        "site Na is partly occupied (Na 1, K 0.5)",
    ),
    "vacant": (
        spoilt(lambda one: one["sites"][0]["species"][0].update(occu=0.9)),
        "site Na is partly occupied (Na 0.9)",
    ),
    "x": (
        spoilt(lambda one: one["sites"][0]["species"][0].update(element="X")),
        "site Na: X is no element",
    ),
    "slab": (
        spoilt(lambda one: one["lattice"].update(pbc=[True, True, False])),
        "it is not periodic in all directions",
    ),
    "nan": (
        spoilt(lambda one: one["sites"][1].update(abc=[float("nan"), 0, 0])),
        "fractional: atom 1 (Cl) has coordinates that are not finite",
    ),
    "plane": (
        spoilt(lambda one: one["lattice"].update(matrix=[[1, 0, 0], [0, 1, 0], [1, 1, 0]])),
        "cell has no volume",
    ),
    "infinite": (
        spoilt(lambda one: one["lattice"]["matrix"][0].__setitem__(0, float("inf"))),
        "cell must be finite numbers",
    ),
    "differ": (
        spoilt(lambda one: one["sites"][1].update(xyz=[0.0, 0.0, 1.0])),
        "abc and xyz of its sites differ by 2.82 Å",
    ),
    "length": (
        spoilt(lambda one: one["lattice"].update(b=5.9)),
        "its lattice says b=5.9, and its matrix has b=",
    ),
    "angle": (
        spoilt(lambda one: one["lattice"].update(gamma=120)),
        "its lattice says gamma=120, and its matrix has gamma=",
    ),
    "fields": (
        spoilt(lambda one: one["sites"][1].pop("abc")),
        "is no structure as pymatgen writes it (KeyError('abc'))",
    ),
    "empty": (spoilt(lambda one: one["sites"].clear()), "elements is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_ordered_crystal_is_left_out_by_name(name, tmp_path):
    text, reason = BROKEN[name]
    folder = write(tmp_path, good=ROCK_SALT, **{name: text})
    with pytest.warns(UserWarning, match="CrystalStructures: 1 left out, 1 kept"):
        made = CrystalStructures(None, folder, log=False)
    assert [graph.name for graph in made] == ["good.cif"]
    (told,) = made.skipped
    assert told.startswith(f"{name}.") and reason in told


def test_doubts_are_told(tmp_path):
    write(
        tmp_path,
        nosym=ROCK_SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'\n", ""),
        heavy=ROCK_SALT.replace("Cl1 Cl1-", "D1 D"),
        two=ROCK_SALT.replace("data_nacl", "data_empty\n_a.b 1\ndata_nacl")
        + ROCK_SALT.replace("data_nacl", "data_more"),
    )
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "._nosym.cif").write_text("of another system")
    with pytest.warns(UserWarning) as warned:
        made = CrystalStructures(None, tmp_path, log=False, cutoff=2.9)
    assert any("1 files that are no crystals by their names" in str(one.message) for one in warned)
    assert made.notes == [
        "heavy.cif: deuterium is read as hydrogen: D1",
        "nosym.cif: no symmetry is told, and all atoms are taken to be there (P 1)",
        "nosym.cif: 2 of 2 atoms have no neighbour in 2.9 Å",
        "two.cif: blocks without fractional coordinates are not read: empty",
        "1 files that are no crystals by their names are not read: notes.txt",
    ]
    assert [graph.name for graph in made] == ["heavy.cif", "nosym.cif", "two.cif", "two.cif#2"]
    assert made[0].atomic_number.tolist() == [11] * 4 + [1] * 4
    assert made[1].num_edges == 0


# --- graphs


def test_the_graph_of_a_crystal():
    data = crystal_graph(structures.perovskite(), cutoff=2.8, gaussians=8)
    assert data.formula == "O3SrTi" and data.cell.shape == (1, 3, 3)
    names = [ELEMENT_NAMES[i] for i in data.x[1].nonzero().flatten()]
    assert names == ["Ti", "period_4", "group_4"] and data.x.sum(1).tolist() == [3] * 5
    degree = torch.bincount(data.edge_index[1]).tolist()
    assert degree[0] == 12 and degree[1] == 6  # strontium and titanium by their oxygen
    senders, receivers = data.edge_index
    want = data.pos[senders] - data.pos[receivers] + data.edge_image.float() @ data.cell[0]
    torch.testing.assert_close(data.edge_vector, want)
    d = data.edge_attr[:, :1]
    torch.testing.assert_close(d[:, 0], want.norm(dim=1))
    centres, step = torch.linspace(0, 2.8, 8), 2.8 / 7
    torch.testing.assert_close(data.edge_attr[:, 1:], (-(((d - centres) / step) ** 2) / 2).exp())


def test_places_in_the_periodic_table():
    told = dict(zip(SYMBOLS, map(place, range(1, 119)), strict=True))
    want = "H 1 1,He 1 18,B 2 13,Al 3 13,Sc 4 3,Zn 4 12,Kr 4 18,Cs 6 1,La 6 f,Yb 6 f,Lu 6 3,Hf 6 4"
    for one in (want + ",U 7 f,Og 7 18").split(","):
        symbol, period, group = one.split()
        assert told[symbol] == (int(period), group)
    assert sum(group == "f" for _, group in told.values()) == 28


def test_arguments_out_of_range(tmp_path):
    write(tmp_path, good=ROCK_SALT)
    for options, text in (
        ({"cutoff": 0.4}, "cutoff must be above 0.5, got 0.4"),
        ({"gaussians": 1}, "gaussians must be at least 2, got 1"),
        ({"neighbors": 0}, "neighbors must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            CrystalStructures(None, tmp_path, **options)
        with pytest.raises(ValueError, match=text):
            crystal_graph(structures.copper(), **options)
    with pytest.raises(ValueError, match=r"elements: atom 1 is 'Qq', which is no element"):
        Crystal(np.eye(3), np.zeros((2, 3)), ("C", "Qq"))
    with pytest.raises(ValueError, match=r"fractional must be \[1, 3\], a row for each"):
        Crystal(np.eye(3), np.zeros((2, 3)), ("C",))
    with pytest.raises(ValueError, match=r"folder: there are no files \.cif, \.json, each also"):
        CrystalStructures(None, tmp_path / "nowhere")


# --- data sets


def test_targets_and_cache(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder, a=ROCK_SALT, b=json.dumps(structures.diamond().as_dict()))
    (folder / "c.cif.gz").write_bytes(gzip.compress(cif_of(structures.copper()).encode()))
    (folder / "energies.csv").write_text("file,energy,gap\na,-3.5,5\nb.json,,5.4\nc.cif.gz,-1,0\n")
    options = {"targets": folder / "energies.csv", "neighbors": 12, "log": False}
    made = CrystalStructures(tmp_path / "cache", folder, **options)
    assert made.target_names == ("energy", "gap") and not made.notes
    values = torch.cat([graph.y for graph in made])
    assert torch.equal(values.nan_to_num(9), torch.tensor([[-3.5, 5.0], [9.0, 5.4], [-1.0, 0.0]]))
    again = CrystalStructures(tmp_path / "cache", folder, **options)
    assert all(torch.equal(a.edge_attr, b.edge_attr) for a, b in zip(made, again, strict=True))
    assert again.cache_path == made.cache_path
    other = CrystalStructures(tmp_path / "cache", folder, **{**options, "neighbors": 4})
    assert other.cache_path != made.cache_path and other[2].num_edges == 12  # ties are kept
    assert [len(part) for part in made.split((1, 1, 1))] == [1, 1, 1]
    # of several structures in a file, none is the one that the row means
    write(folder, d=json.dumps([structures.copper().as_dict()] * 2))
    with (
        pytest.warns(UserWarning, match="1 left out"),
        pytest.warns(UserWarning, match="no row for 1 of 4 files"),
    ):
        several = CrystalStructures(None, folder, **options)
    assert "holds 2 structures, and targets name files" in several.skipped[0]


def test_new_files_become_graphs_in_the_same_way(tmp_path):
    write(tmp_path, a=ROCK_SALT)
    made = CrystalStructures(None, tmp_path, cutoff=4.0, neighbors=6, gaussians=9, log=False)
    told = featuriser_of(made)
    assert told["reader"] == "crystal"
    assert told["options"] == {"cutoff": 4.0, "neighbors": 6, "gaussians": 9}
    json.dumps(told)
    (again,) = graphs_of_files(told, [tmp_path / "a.cif"])
    assert torch.equal(again.edge_attr, made[0].edge_attr) and again.num_edges == 48
    with pytest.raises(ValueError, match="tables are for grains of images, and the model reads"):
        graphs_of_files(told, [tmp_path / "a.cif"], tables="folder")
    write(tmp_path, bad=BROKEN["partial"][0])
    with pytest.raises(ValueError, match=r"nothing can be read \(.*partly occupied"):
        graphs_of_files(told, [tmp_path / "bad.cif"])


@pytest.mark.slow
def test_json_needs_no_package(tmp_path, interpreter):
    write(tmp_path, a=json.dumps(structures.copper().as_dict()), b=ROCK_SALT)
    code = """
        import sys
        sys.modules["gemmi"] = None
        from graphformer.datasets import CrystalStructures
        print(CrystalStructures(None, sys.argv[1] + "/a.json", log=False)[0].formula)
        try:
            CrystalStructures(None, sys.argv[1] + "/b.cif", log=False)
        except ImportError as error:
            print(error)
    """
    first, second = interpreter(code, tmp_path).splitlines()
    assert first == "Cu"
    assert second.startswith("reading CIF needs the package 'gemmi', which is not installed.")
    assert "graphformer[crystals]" in second
