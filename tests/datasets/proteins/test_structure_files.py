"""Structure files as users have them: each CA atom is a node or named, and each doubt is told."""

import gzip
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from graphformer.datasets import ProteinStructures
from graphformer.datasets.proteins.files import structure_kind
from graphformer.datasets.proteins.residues import read_residues
from tests.datasets.proteins.test_protein_structures import TEN, amino, helix, line, make, peptide  # noqa: F401

biotite = pytest.importorskip("biotite")
pytestmark = pytest.mark.filterwarnings("ignore:ProteinStructures")


def left(skipped: list[str]) -> int:
    """How many CA atoms the texts of ``skipped`` count."""
    return sum(int(m[1]) for text in skipped if (m := re.search(r"(\d+) residues? left out", text)))


def alpha_carbons(path: Path) -> int:
    """CA atoms of the first model, one location each, counted line by line."""
    plain, several, tags, first, ends = 0, set(), [], None, 0
    for text in path.read_text(errors="replace").splitlines():
        if text.startswith("_atom_site."):
            tags.append(text.split(".")[1].strip())
        elif text.startswith("TER"):
            ends += 1
        elif text.startswith("ENDMDL"):
            break
        elif text.startswith(("ATOM ", "HETATM")):
            if tags:
                row = dict(zip(tags, text.split(), strict=True))
                first = first or row["pdbx_PDB_model_num"]
                if first != row["pdbx_PDB_model_num"] or row["type_symbol"] != "C":
                    continue
                name, altloc = row["label_atom_id"], row["label_alt_id"].strip(".")
                key = tuple(
                    row[n]
                    for n in ("auth_asym_id", "label_asym_id", "auth_seq_id", "pdbx_PDB_ins_code")
                )
            else:
                name, altloc, key = text[12:16].strip(), text[16].strip(), (ends, text[21:27])
                if "CA" in (text[17:20].strip(), text[76:78]):
                    continue
            if name == "CA" and altloc:
                several.add(key)
            elif name == "CA":
                plain += 1
    return plain + len(several)


@pytest.mark.slow
def test_alpha_carbons_are_nodes_or_named_in_real_files(data_dir):
    folder = data_dir / "protein-structures"
    files = [path for path in sorted(folder.rglob("*")) if structure_kind(path)]
    if not files:
        pytest.skip("the structure files are not here")
    counts = {}
    for path in files:
        read = next(read_residues(path, structure_kind(path), every=False))
        counts[path.name] = (len(read.residues.ca) + left(read.skipped), alpha_carbons(path))
    assert len(counts) == 20 and all(ours == theirs > 0 for ours, theirs in counts.values()), counts


def text_of(rows) -> str:
    """A minimal mmCIF text of PDB lines."""
    head = [
        "group_PDB",
        "id",
        "label_atom_id",
        "label_comp_id",
        "label_asym_id",
        "label_seq_id",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
    ]
    lines = ["data_made", "loop_", *(f"_atom_site.{name}" for name in head)]
    for n, r in enumerate(rows, start=1):
        parts = (r[:6], n, r[12:16], r[17:20], r[21], r[22:26], r[30:38], r[38:46], r[46:54])
        lines.append(" ".join(str(part).strip() for part in parts))
    return "\n".join([*lines, "#", ""])


def moved(lines, x) -> list[str]:
    return [
        f"{t[:30]}{float(t[30:38]) + x:8.3f}{t[38:]}" if t.startswith(("ATOM", "HETATM")) else t
        for t in lines
    ]


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("ter", [False, True])
def test_two_chains_of_one_name_are_both_read(make, blank, ter):  # noqa: F811
    """After TER, or where numbers start again; the exposure is that of both together."""
    one = helix(TEN)
    two = [*one, *["TER"] * ter, *moved(helix([str(n) for n in range(3, 10)]), 7.0)]
    if blank:
        two = [f"{t[:21]} {t[22:]}" if t.startswith("ATOM") else t for t in two]
    made, alone = make(two), make(one)
    data, name = made[0], "" if blank else "A"
    assert data.num_nodes == 17 and data.chains == f"{name},{name}#2" and peptide(made) == 9 + 6
    assert any("2 chains are called" in note for note in made.notes) and made.skipped == []
    assert data.sasa[:10].sum() < alone[0].sasa.sum() - 20  # each is in the way of the other


def test_blank_chains_that_start_at_another_number(make):  # noqa: F811
    first, second = helix([str(n) for n in range(5, 15)]), moved(helix(TEN), 30.0)
    data = make([f"{t[:21]} {t[22:]}" for t in first + second])[0]
    assert data.num_nodes == 20 and data.group_1.tolist() == [0] * 10 + [1] * 10


def test_segments_part_chains_and_name_blank_ones(make):  # noqa: F811
    rows = [f"{t[:21]} {t[22:72]}{'PROA':4}{t[76:]}" for t in helix(TEN)]
    rows += [f"{t[:21]} {t[22:72]}{'PROB':4}{t[76:]}" for t in moved(helix(TEN), 30.0)]
    data = make(rows)[0]
    assert data.num_nodes == 20 and data.chains == "PROA,PROB"


def test_numbers_that_wrap_or_are_hybrid_36_are_one_chain(make):  # noqa: F811
    written = [9998, 9999, 0, 1, 2, 3, 4]
    rows = helix([str(n) for n in range(1, 8)])
    number = {str(n): w for n, w in zip(range(1, 8), written, strict=True)}
    made = make([f"{t[:22]}{number[t[22:26].strip()]:>4}{t[26:]}" for t in rows])
    assert made[0].residue.tolist() == written and made[0].chains == "A" and peptide(made) == 6
    hybrid = dict(
        zip(number, ["9998", "9999", "A000", "A001", "A002", "A003", "A004"], strict=True)
    )
    made = make([f"{t[:22]}{hybrid[t[22:26].strip()]}{t[26:]}" for t in rows])
    assert made[0].residue.tolist() == [9998, 9999, 10000, 10001, 10002, 10003, 10004]
    # serial numbers of six digits
    long = [f"{t[:6]}{100000 + n}{t[11:]}" for n, t in enumerate(rows)]
    assert torch.equal(make(long)[0].pos, make(rows)[0].pos)


def test_numbers_below_zero_and_unreadable_ones(make):  # noqa: F811
    rows = helix(TEN)
    made = make([f"{t[:22]}{int(t[22:26]) - 5:>4}{t[26:]}" for t in rows])
    assert made[0].residue.tolist() == list(range(-4, 6))
    made = make([f"{t[:22]}****{t[26:]}" for t in rows])
    assert (
        made[0].num_nodes == 10 and "10 residues without a number that can be read" in made.notes[0]
    )


def test_models_of_end_records_and_joined_files(make):  # noqa: F811
    frames = make([*helix(TEN), "END", *helix(TEN, turn=30)])
    assert (
        frames[0].num_nodes == 10
        and "the first of 2 models is read; models='all'" in frames.notes[0]
    )
    joined = make([*helix(TEN), "END", *helix(TEN[:7], chain="B")])
    assert joined[0].num_nodes == 17 and joined[0].chains == "A,B"


def test_calcium_is_no_residue_and_a_ligand_s_alpha_carbon_is_named(make):  # noqa: F811
    ion = line("HETATM", "CA", "CA", "A", 201, " ", (90, 0, 0), element="CA")
    ligand = line("HETATM", "CA", "PLY", "A", 301, " ", (60, 0, 0))
    made = make([*helix(TEN), ion, ligand])
    assert (
        made[0].num_nodes == 10
        and left(made.skipped) == 1
        and "no amino acids: PLY A301" in made.skipped[0]
    )
    # CA as the element of alpha carbons
    wrong = [f"{t[:76]}CA{t[78:]}" if t[12:16] == " CA " else t for t in helix(TEN)]
    assert make(wrong)[0].num_nodes == 10


def test_modified_residues_at_the_end_of_the_file_come_to_their_place(make):  # noqa: F811
    rows = [
        t.replace("ATOM  ", "HETATM").replace("ALA", "MSE") if t[22:26].strip() == "4" else t
        for t in helix(TEN)
    ]
    last = [t for t in rows if "MSE" in t]
    made = make([*(t for t in rows if "MSE" not in t), "TER", *last])
    assert (
        made[0].residue.tolist() == list(range(1, 11))
        and amino(made) == "AAAM" + 6 * "A"
        and peptide(made) == 9
    )


def test_two_residues_at_one_place_without_letters(make):  # noqa: F811
    rows = helix(TEN)
    own = [t for t in rows if t[22:26].strip() == "5"]
    other = [f"{t.replace('ALA', 'SER')[:54]}{0.6:6.2f}{t[60:]}" for t in own]
    own = [f"{t[:54]}{0.4:6.2f}{t[60:]}" for t in own]
    made = make([*rows[:20], *own, *other, *rows[25:]])
    assert made[0].num_nodes == 10 and amino(made) == "AAAASAAAAA" and left(made.skipped) == 1


HISTIDINE = ("CG", "ND1", "CD2", "CE1", "NE2")


def side_chains(name: str, atoms, record="ATOM") -> list[str]:
    rows = helix(TEN, [name[:3]] * 10, record=record)
    for n in range(1, 11):
        rows += [
            line(record, a, name[:3], "A", n, " ", (3.0 * n, 40.0 + i, 0.0))
            for i, a in enumerate(atoms)
        ]
    return [f"{t[:17]}{name:<4}{t[21:]}" for t in rows]


@pytest.mark.parametrize(
    ("name", "atoms", "letter"),
    [
        *(
            (name, HISTIDINE, "H")
            for name in ["HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HISH", "HISE", "NHIE", "CHID"]
        ),
        *((name, ("SG",), "C") for name in ["CYX", "CYM", "CYS2", "CYSH"]),
        *((name, ("CG", "CD", "OE1", "OE2"), "E") for name in ("GLH", "GLUH")),
        *((name, ("CG", "OD1", "OD2"), "D") for name in ("ASH", "ASPH")),
        *((name, ("CG", "CD", "CE", "NZ"), "K") for name in ("LYN", "LYP", "LYSH")),
        *((name, ("CG", "CD", "NE", "CZ", "NH1", "NH2"), "R") for name in ("ARN", "ARGN")),
        ("NALA", (), "A"),
        ("HSE", (), "H"),
    ],
)
def test_names_of_force_fields(make, name, atoms, letter):  # noqa: F811
    made = make(side_chains(name, atoms))
    assert amino(made) == 10 * letter
    if atoms:
        # whole: nothing lacks under the names of the amino acid
        assert made[0].exposure.isfinite().all()
    if len(name) == 4:  # begun one column early, in that of the location
        assert (
            amino(make([f"{t[:16]}{t[17:21]} {t[21:]}" for t in side_chains(name, atoms)]))
            == 10 * letter
        )


def test_a_code_of_two_compounds_is_told_by_its_side_chain(make):  # noqa: F811
    homoserine = make(side_chains("HSE", ("CG", "C3", "O3"), record="HETATM"))
    assert amino(homoserine) == 10 * "S"
    doubt = make(side_chains("HSE", ()))
    assert any(
        "codes of other compounds too, read by their atoms: HSE as H" in note
        for note in doubt.notes
    )


@pytest.mark.parametrize("kept", [("CA",), ("N", "CA", "C", "O")])
def test_surfaces_of_incomplete_structures_are_unknown(make, kept):  # noqa: F811
    names = ["LEU", "GLY"] * 5
    made = make([t for t in helix(TEN, names) if t[12:16].strip() in kept], target="exposure")
    assert made[0].num_nodes == 10 and made[0].exposure.isnan().all() and made[0].y.isnan().all()
    assert (
        "the surface of 10 of 10 residues cannot be known" in made.notes[-1]
        and "PDBFixer" in made.notes[-1]
    )
    assert made[0].x.isfinite().all() and peptide(made) == 9


def test_hydrogens_change_no_surface(make):  # noqa: F811
    rows = helix(TEN)
    hydrogens = [
        line("ATOM", a, "ALA", "A", n, " ", (n, 3.0, 2.0), element=e)
        for n in range(1, 11)
        for a, e in (("HA", "H"), ("1HB", " "))
    ]
    assert torch.equal(make(rows + hydrogens)[0].sasa, make(rows)[0].sasa)


def test_coordinates_in_nanometres_are_left_out(make):  # noqa: F811
    rows = [
        f"{t[:30]}" + "".join(f"{float(t[a : a + 8]) / 10:8.3f}" for a in (30, 38, 46)) + t[54:]
        for t in helix(TEN)
    ]
    with (
        pytest.raises(ValueError, match="has no graph"),
        pytest.warns(UserWarning, match="in nm, multiply its coordinates by 10"),
    ):
        make(rows)


EDITS = {
    "no occupancy": lambda t: f"{t[:54]}{'':6}{t[60:]}",
    "no B factor": lambda t: f"{t[:60]}{'':6}{t[66:]}",
    "no element": lambda t: t[:76],
    "ends at the coordinates": lambda t: t[:54],
    "small letters": lambda t: t[:21].lower() + t[21:],
    "number of the line at the end": lambda t: f"{t[:66]}      1ABC{17:4}",
    "hexadecimal serial": lambda t: f"{t[:6]}186a0{t[11:]}",
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_not_needed_may_lack(make, edit):  # noqa: F811
    whole, made = make(helix(TEN)), make([EDITS[edit](t) for t in helix(TEN)])
    assert torch.equal(made[0].x, whole[0].x) and torch.equal(made[0].sasa, whole[0].sasa)
    assert made[0].chains == "A" and not made.skipped and not made.notes


@pytest.mark.parametrize(
    "text", ["     nan", "********", "9999.000", "    1,00", "        ", "   12.34 "]
)
def test_coordinates_that_cannot_be_read_are_named_by_row(make, text):  # noqa: F811
    rows = helix(TEN)
    at = next(n for n, t in enumerate(rows) if t[12:16] == " CA " and t[22:26].strip() == "5")
    rows[at] = (
        f"{rows[at][:30]}{text}{rows[at][38:]}"
        if len(text) == 8
        else f"{rows[at][:30]} {rows[at][30:]}"
    )
    made = make(rows)
    assert (
        made[0].num_nodes == 9
        and left(made.skipped) == 1
        and "no coordinates: ALA A5" in made.skipped[0]
    )
    assert any(f"without coordinates that can be read: row {at + 1}" in note for note in made.notes)


@pytest.mark.parametrize("end", [49, 50, 51, 52, 53])
def test_a_row_that_is_cut_off_in_a_coordinate_gives_no_other_place(make, end):  # noqa: F811
    """``12.345`` cut to ``12.3``, or to ``1``, can be read and is wrong."""
    rows = helix(TEN)
    at = next(n for n, t in enumerate(rows) if t[12:16] == " CA " and t[22:26].strip() == "10")
    assert rows[at][46:54] == "  13.500"
    made = make([*rows[:at], rows[at][:end]])
    assert made[0].num_nodes == 9 and "no coordinates: ALA A10" in made.skipped[0]


def test_atoms_that_do_not_start_in_their_column_are_told(make):  # noqa: F811
    made = make([*helix(TEN), *(" " + t for t in helix(["11"], start=10))])
    assert made[0].num_nodes == 10 and "5 atom that does not start" in made.notes[0]


PACKED = {
    "a.pdb.gz": gzip.compress,
    "A.PDB": bytes,
    "a.ent": lambda b: b.replace(b"\n", b"\r\n"),
    "a.ent.gz": bytes,  # named so, and is no gzip stream
    "a.pdb1": lambda b: b.replace(b"\n", b"\r"),
    "b.pdb": lambda b: b"\xef\xbb\xbf" + b,
    "c.pdb": lambda b: b"REMARK Universit\xe4t \x85\n" + b,
    "d.pdb": gzip.compress,
    "a.pdbqt": bytes,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_and_edited_files_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name](("\n".join(helix(TEN)) + "\n").encode()))
    made = ProteinStructures(None, tmp_path)
    assert made[0].name == name and made[0].num_nodes == 10 and not made.skipped and not made.notes


@pytest.mark.parametrize(
    "name", ["a.cif", "a.mmcif", "a.pdbx", "a.cif.gz", "wrong.pdb", "a.bcif", "a.bcif.gz"]
)
def test_mmcif_and_binary_cif_with_few_columns(tmp_path, name):
    text = text_of(helix(TEN))
    data = text.encode()
    if "bcif" in name:
        module = pytest.importorskip("biotite.structure.io.pdbx")
        table = module.CIFFile.read(io.StringIO(text))["made"]["atom_site"]
        columns = {key: table[key].as_array(float if "Cartn" in key else str) for key in table}
        out = io.BytesIO()
        module.BinaryCIFFile(
            {"made": module.BinaryCIFBlock({"atom_site": module.BinaryCIFCategory(columns)})}
        ).write(out)
        data = out.getvalue()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "whole.pdb").write_text("\n".join(helix(TEN)))
    made, whole = (
        ProteinStructures(None, tmp_path / name)[0],
        ProteinStructures(None, tmp_path / "whole.pdb")[0],
    )
    assert torch.equal(made.x, whole.x) and made.residue.tolist() == whole.residue.tolist()
    np.testing.assert_allclose(made.sasa, whole.sasa, rtol=1e-4)


def test_mmcif_texts_orders_and_blocks(tmp_path):
    """A tag, ``data_`` and ``loop_`` inside a text between semicolons, tags in capitals, quoted
    names, two blocks.
    """
    text = (
        text_of(helix(TEN))
        .replace("_atom_site.", "_ATOM_SITE.")
        .replace(" CA ALA", " 'CA' \"ALA\"")
    )
    title = "_struct.title\n;a title\n_atom_site.id\ndata_no\nloop_\n;\n"
    text = text.replace("loop_", title + "loop_ # columns", 1)
    (tmp_path / "a.cif").write_text(text + text_of(helix(TEN[:7])).replace("data_made", "data_two"))
    made = ProteinStructures(None, tmp_path)
    assert made[0].num_nodes == 10 and "the first of 2 models is read" in made.notes[0]
    assert [data.num_nodes for data in ProteinStructures(None, tmp_path, models="all")] == [10, 7]


def test_unknown_values_of_mmcif(tmp_path):
    rows = text_of(helix(TEN)).splitlines()
    at = next(n for n, row in enumerate(rows) if " CA ALA A 5 " in row)
    rows[at] = " ".join([*rows[at].split()[:-1], "?"])
    (tmp_path / "a.cif").write_text("\n".join(rows))
    made = ProteinStructures(None, tmp_path)
    assert (
        made[0].num_nodes == 9
        and left(made.skipped) == 1
        and f"row {at + 1}" in "".join(made.notes)
    )


UNREADABLE = {
    "a.pdb.gz": (gzip.compress(b"ATOM" * 99)[:-9], "its gzip stream is damaged"),
    "a.pdb": (b"", "it is empty"),
    "a.bcif": (b"\x83\xabdataBlocks\x01", "cannot be read"),
    "a.cif": (b"data_x\n_struct.title\n;no end\n", "the text that starts in row 3 has no end"),
    "b.cif": (
        b"data_x\nloop_\n_atom_site_label\n_atom_site_fract_x\nC1 0.1\n",
        "there are no atoms",
    ),
    "c.cif": (
        b"data_x\nloop_\n_atom_site.id\n_atom_site.Cartn_x\n1 2\n3\n",
        "its last atom, row 6, has 1 of 2 values",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_damaged_files_are_named_with_the_reason(tmp_path, name):
    (tmp_path / name).write_bytes(UNREADABLE[name][0])
    (tmp_path / "whole.pdb").write_text("\n".join(helix(TEN)))
    made = ProteinStructures(None, tmp_path)
    assert len(made) == 1 and len(made.skipped) == 1 and made.skipped[0].startswith(name)
    assert UNREADABLE[name][1] in made.skipped[0]


def test_files_of_other_kinds_are_told_and_hidden_ones_passed_over(tmp_path):
    (tmp_path / "a.pdb").write_text("\n".join(helix(TEN)))
    for name in ("._a.pdb", ".DS_Store", "README", "x.mmtf", "y.xyz"):
        (tmp_path / name).write_bytes(b"\x00\x05")
    with pytest.warns(
        UserWarning,
        match="3 files that are no structures by their names are not read: README, x.mmtf, y.xyz",
    ):
        made = ProteinStructures(None, tmp_path)
    assert len(made) == 1 and not made.skipped and len(made.notes) == 1


def test_doubts_are_told_again_from_the_cache(tmp_path):
    (tmp_path / "a.pdb").write_text("\n".join(t for t in helix(TEN) if " CA " in t))
    ProteinStructures(tmp_path / "root", tmp_path / "a.pdb")
    with pytest.warns(UserWarning, match="1 in doubt, see notes .a.pdb: the surface of 10 of 10"):
        again = ProteinStructures(tmp_path / "root", tmp_path / "a.pdb")
    assert len(again.notes) == 1
