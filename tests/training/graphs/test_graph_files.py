"""Models of polymers and of proteins from files to predictions, on the command line and in Python,
and what bad files are told.
"""

import csv
import json
from pathlib import Path

import pytest
import torch

import graphformer as gf
from graphformer.datasets import CopolymerGraphs, PolymerGraphs, ProteinStructures
from graphformer.training import (
    GraphModel,
    featuriser_of,
    graphs_of_files,
    load_graph_model,
    prediction_table,
)

SMALL = "--epochs 1 --hidden-size 8 --layers 1 --heads 2 --max-nodes 200"
UNITS = (
    "*CC*",
    "*CC(*)C",
    "*CC(*)F",
    "*c1ccc(*)s1",
    "*C(=O)C*",
    "*CO*",
    "*CC(*)c1ccccc1",
    "*CC(*)(C)C(=O)OC",
    "*CC(*)Cl",
    "*CC(*)O",
)


def rows_of(text):
    return list(csv.reader(text.splitlines()))


def untrained(dataset, **options) -> GraphModel:
    torch.manual_seed(0)
    sizes = {
        "node_dim": dataset[0].x.shape[1],
        "edge_dim": dataset[0].edge_attr.shape[1],
        "hidden_size": 8,
        "num_layers": 1,
        "num_heads": 2,
    }
    return GraphModel(
        gf.GraphTransformer(**sizes, **options).eval(),
        featuriser=json.loads(json.dumps(featuriser_of(dataset))),
    )


# --- polymers


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "gaps.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(
            [["psmiles", "gap", "note"], *([unit, i + 1.5, ""] for i, unit in enumerate(UNITS))]
        )
    return path


def test_polymers_from_a_table_to_predictions_row_by_row(call, refused, table, tmp_path):
    arguments = [
        "train-graphs",
        "--output",
        tmp_path / "run",
        "--dataset",
        table,
        "--smiles-column",
        "psmiles",
        *SMALL.split(),
    ]
    code, out, err = call(*arguments, "--target-columns", "gap")
    assert code == 0, err
    assert (
        "8 graphs to learn from, 1 to validate, 1 to test" in out
        and f"next: graphformer predict {tmp_path / 'run'} NEW.csv" in out
    )

    new = tmp_path / "new.csv"
    new.write_text("name,psmiles\nfirst,*CC(*)C\nsecond,*CC(\nthird,CCO\nfourth,*CO*\nfifth\n")
    code, out, err = call("predict", tmp_path / "run", new)
    assert code == 0 and rows_of(out)[0] == ["file", "row", "name", "psmiles", "gap"]
    rows = rows_of(out)[1:]
    texts = ["*CC(*)C", "*CC(", "CCO", "*CO*", ""]
    assert [row[:2] + row[3:4] for row in rows] == [
        ["new.csv", str(number), text] for number, text in enumerate(texts, start=1)
    ]
    assert [bool(row[4]) for row in rows] == [True, False, False, True, False]
    assert [row[2] for row in rows] == ["first", "second", "third", "fourth", "fifth"]
    assert (
        err.splitlines()[0]
        == f"warning: no prediction for {new}, row 2: '*CC(' is no SMILES: it does not parse"
    )
    assert "row 3: 'CCO'" in err and "row 5: ''" in err and err.count("\n") == 3
    model = load_graph_model(tmp_path / "run")
    expected = model.predict(
        PolymerGraphs(None, file=table, text="psmiles", targets=(), log=False)[[1, 5]]
    )
    assert [float(rows[i][4]) for i in (0, 3)] == pytest.approx(expected[:, 0].tolist(), rel=1e-4)

    renamed = tmp_path / "renamed.csv"
    renamed.write_text("smiles\n*CO*\n")
    told = refused(call("predict", tmp_path / "run", renamed))
    assert (
        "has no column 'psmiles' of polymers; name its column (--smiles-column), one of: smiles"
        in told
    )
    code, again, _ = call("predict", tmp_path / "run", renamed, "--smiles-column", "smiles")
    assert code == 0 and float(rows_of(again)[1][3]) == pytest.approx(float(rows[3][4]), rel=1e-4)
    other = tmp_path / "other.csv"
    other.write_text(new.read_text())
    code, out, _ = call("predict", tmp_path / "run", new, other, "--output", tmp_path / "both.csv")
    assert (
        code == 0
        and out.startswith("4 predictions in ")
        and len(rows_of((tmp_path / "both.csv").read_text())) == 11
    )


def test_columns_of_a_table_are_kept_beside_the_predictions(call, table, tmp_path):
    untrained(PolymerGraphs(None, file=table, text="psmiles", targets="gap", log=False)).save(
        tmp_path / "model"
    )
    (tmp_path / "a.csv").write_text("row;gap;psmiles\n7;1.5;*CC*\n\n8;N/A;*CO*\n9;2,5;*C(\n")
    (tmp_path / "b.csv").write_text("psmiles,note\n*CC*,again\n")
    code, out, err = call("predict", tmp_path / "model", tmp_path / "a.csv", tmp_path / "b.csv")
    assert code == 0 and err.splitlines() == [
        f"warning: no prediction for {tmp_path / 'a.csv'}, row 3 (line 5): '*C(' is no SMILES: "
        "it does not parse",
        "warning: a column is called 'row' already; ours is 'row (source)'",
        "warning: a column is called 'gap' already; ours is 'gap (predicted)'",
    ]
    header, *rows = rows_of(out)
    own = ["row", "gap", "psmiles", "note"]
    assert header == ["file", "row (source)", *own, "gap (predicted)"]
    assert [row[:6] for row in rows] == [
        ["a.csv", "1", "7", "1.5", "*CC*", ""],
        ["a.csv", "2", "8", "N/A", "*CO*", ""],
        ["a.csv", "3", "9", "2,5", "*C(", ""],
        ["b.csv", "1", "", "", "*CC*", "again"],
    ]
    assert rows[0][6] == rows[3][6] != rows[1][6] and rows[2][6] == ""
    code, out, _ = call(
        "predict", tmp_path / "model", tmp_path / "a.csv", "--output", tmp_path / "out.csv"
    )
    assert code == 0 and out.startswith("2 predictions in ")


def test_a_model_that_was_saved_before_there_was_stereo_predicts_as_it_did_and_says_so(
    call, table, tmp_path
):
    made = PolymerGraphs(
        None, file=table, text="psmiles", targets="gap", features="basic", log=False
    )
    model = untrained(made)
    del model.featuriser["options"]["features"]  # as it was saved then
    model.save(tmp_path / "model")
    (tmp_path / "new.csv").write_text("psmiles\n*CC(*)C\n*C[C@H](*)C\n")
    code, out, err = call("predict", tmp_path / "model", tmp_path / "new.csv")
    assert code == 0 and err.startswith(
        f"warning: {tmp_path / 'new.csv'}: the basic features, which the model was trained on, do "
        "not tell all"
    )
    assert "of 1 rows (row 2: stereo (R/S, E/Z))" in err and err.count("\n") == 1
    expected = model.predict(made[[1]])[0, 0].item()
    assert [float(row[3]) for row in rows_of(out)[1:]] == pytest.approx(
        [expected, expected], rel=1e-4
    )


def test_faults_of_a_table_of_polymers_are_told_in_training(call, refused, table, tmp_path):
    text = (
        table.read_text()
        .replace("*CC(*)F,3.5", "*CC(*)F,N/A")
        .replace("*CO*,6.5", '*CO*,"6,5"')
        .replace("*CC(*)O", "*CC(O")
    )
    table.write_text(text + "*CN*,1,x,y\n")
    arguments = ["train-graphs", "--dataset", table, "--smiles-column", "psmiles", *SMALL.split()]
    code, out, err = call(*arguments, "--output", tmp_path / "run", "--target-columns", "gap")
    assert code == 0, err
    assert "5 graphs to learn from, 1 to validate, 1 to test" in out
    told = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert told[0].startswith(
        f"warning: {table}: 1 labels are taken as missing (row 6, column 'gap': '6,5' is no "
        "number; write a decimal"
    )
    assert (
        "PolymerGraphs: 2 left out, 9 kept (row 10: '*CC(O' is no SMILES" in told[1]
        and "row 11: 4 cells under 3 columns" in told[1]
    )
    assert told[2:] == ["warning: 2 of 9 graphs have no label and are left out (row 3, row 6)"]
    for columns, message in (
        ("gap,gap", "--target-columns: 'gap' is there twice"),
        ("psmiles", "'psmiles' is the column of polymers"),
    ):
        assert message in refused(
            call(*arguments, "--output", tmp_path / "no", "--target-columns", columns)
        )
    table.write_bytes(b"psmiles,gap\n*CC*,\xff\n")
    assert "line 2 is not UTF-8" in refused(
        call(*arguments, "--output", tmp_path / "no", "--target-columns", "gap")
    )
    table.write_text('psmiles,gap\n*CC*,1\n"*CO*,2\n')
    assert "a quote is never closed" in refused(
        call(*arguments, "--output", tmp_path / "no", "--target-columns", "gap")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "psmiles\n*CC(\nCCO\n",
            "nothing can be read (PolymerGraphs: 2 left out, 0 kept (row 1: '*CC(' is no SMILES",
        ),
        ("psmiles\n", "new.csv has no rows"),
        (
            "",
            "has no column 'psmiles' of polymers; name its column (--smiles-column), one of: none",
        ),
        (None, "there is no file"),
    ],
)
def test_predict_refuses_files_without_polymers(call, refused, table, tmp_path, content, message):
    untrained(PolymerGraphs(None, file=table, text="psmiles", targets="gap", log=False)).save(
        tmp_path / "model"
    )
    if content is not None:
        (tmp_path / "new.csv").write_text(content)
    assert message in refused(call("predict", tmp_path / "model", tmp_path / "new.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--smiles-column: {table} has no column 'smiles'; its columns: psmiles, gap, note"),
        (
            ["--smiles-column", "psmiles"],
            "--target-columns is needed with a CSV of polymers: what is learned, one or several of "
            "gap, note",
        ),
        (
            ["--smiles-column", "psmiles", "--target-columns", "gap,Tg"],
            "--target-columns: {table} has no column 'Tg'; its columns: psm",
        ),
        (
            ["--grains", "3"],
            "--grains is for polycrystals, and --dataset '{table}' is of polymers; leave it out",
        ),
        (["--cutoff", "5"], "--cutoff is for proteins"),
    ],
)
def test_train_graphs_refuses_what_does_not_fit_a_table(
    call, refused, table, tmp_path, options, message
):
    assert message.format(table=table) in refused(
        call("train-graphs", "--output", tmp_path / "run", "--dataset", table, *options)
    )
    assert not (tmp_path / "run").exists()


def test_copolymers_tell_how_they_are_read():
    made = CopolymerGraphs.__new__(CopolymerGraphs)  # the data set itself is large
    told = featuriser_of(made)
    assert told["options"] == {"text": "poly_chemprop_input", "features": "full"} and told[
        "target_names"
    ] == ["EA", "IP"]


# --- proteins


@pytest.fixture
def structures(tmp_path) -> Path:
    """Ten helices in PDB files, with all their heavy atoms: the exposure of others is not known."""
    pytest.importorskip("biotite")
    from tests.datasets.proteins.test_protein_structures import helix

    folder = tmp_path / "structures"
    folder.mkdir()
    for i in range(10):
        names = ["ALA", "GLY"] * 12
        lines = helix(
            [str(n) for n in range(1, 13 + i)],
            names=names[i : i + 12 + i][: 12 + i] if i < 4 else None,
            turn=7 * i,
        )
        (folder / f"p{i}.pdb").write_text("\n".join([*lines, "END", ""]))
    return folder


def test_proteins_from_files_to_predictions_of_residues(call, refused, structures, tmp_path):
    from tests.datasets.proteins.test_protein_structures import helix

    arguments = [
        "train-graphs",
        "--output",
        tmp_path / "run",
        "--dataset",
        structures,
        "--cutoff",
        "9",
        *SMALL.split(),
    ]
    code, out, err = call(*arguments, "--levels", "group_0,group_1", "--features", "secondary")
    assert code == 0, err
    assert "8 graphs to learn from, 1 to validate, 1 to test" in out and "test: MAE " in out
    assert load_graph_model(tmp_path / "run").featuriser["options"] == {
        "cutoff": 9.0,
        "features": ["secondary"],
        "models": "first",
    }

    new = tmp_path / "new"
    new.mkdir()
    bare = helix(["7", "8"], chain="B", leave={("7", "CA"), ("8", "CA")})
    (new / "a.pdb").write_text("\n".join([*helix(["1", "2", "2A", "3", "4", "5"]), *bare, "END"]))
    (new / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n1 2\n")
    code, out, err = call("predict", tmp_path / "run", new)
    assert (
        code == 0
        and "no prediction for a.pdb: chain B has no CA atoms" in err
        and "no prediction for broken.cif: cannot be read" in err
    )
    assert err.count("\n") == 2 and rows_of(out)[0] == [
        "file",
        "chain",
        "residue",
        "amino_acid",
        "exposure",
    ]
    assert [row[:4] for row in rows_of(out)[1:]] == [
        ["a.pdb", "A", n, "A"] for n in ("1", "2", "2A", "3", "4", "5")
    ]
    assert all(0 < abs(float(row[4])) < 5 for row in rows_of(out)[1:])
    code, single, _ = call("predict", tmp_path / "run", new / "a.pdb")
    assert code == 0 and single == out

    told = refused(call("predict", tmp_path / "run", new / "broken.cif"))
    assert (
        "broken.cif: nothing can be read (ProteinStructures: 1 left out, 0 kept (broken.cif: "
        "cannot be read" in told
    )
    assert "with .gz in 'none.pdb', which is no folder" in refused(
        call("predict", tmp_path / "run", "none.pdb")
    )
    (tmp_path / "image.npy").write_bytes(b"")
    assert "image.npy' is no structure by its name; known: .pdb" in refused(
        call("predict", tmp_path / "run", tmp_path / "image.npy")
    )
    told = refused(call("predict", tmp_path / "run", new, "--tables", tmp_path))
    assert (
        "--tables" in told
        and "is for models of microstructures, and MODEL_DIR reads proteins" in told
    )


def test_classes_of_residues_are_letters_with_probabilities(call, structures, tmp_path):
    options = ["--dataset", structures, "--residue-target", "secondary", *SMALL.split()]
    code, out, err = call("train-graphs", "--output", tmp_path / "run", *options)
    assert code == 0 and "test: ACCURACY " in out, err
    code, out, _ = call("predict", tmp_path / "run", structures / "p0.pdb")
    assert code == 0 and rows_of(out)[0][4:] == ["secondary", "p_H", "p_E", "p_C"]
    for row in rows_of(out)[1:]:
        chances = dict(zip("HEC", map(float, row[5:]), strict=True))
        assert row[4] == max(chances, key=chances.get) and sum(chances.values()) == pytest.approx(
            1, abs=1e-4
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--residue-target size", "unknown target 'size'; known: secondary, exposure, sasa"),
        (
            "--features sasa",
            "--features: sasa would tell the model the exposure that it is to predict; leave it "
            "out",
        ),
        (
            "--residue-target secondary --levels group_0",
            "--levels: group_0 is made of the secondary structure, which is to be predicted",
        ),
        ("--target-columns gap", "--target-columns is for polymers, and --dataset"),
    ],
)
def test_train_graphs_refuses_what_does_not_fit_structures(
    call, refused, structures, tmp_path, options, message
):
    assert message in refused(
        call(
            "train-graphs", "--output", tmp_path / "run", "--dataset", structures, *options.split()
        )
    )
    assert not (tmp_path / "run").exists()


def test_a_property_of_whole_proteins_is_a_row_a_file(structures):
    made = ProteinStructures(None, structures, target=None, log=False)
    found = prediction_table(untrained(made), [structures / "p1.pdb", structures / "p0.pdb"])
    assert (
        found.columns == ["file", "y_0"]
        and [row[0] for row in found.rows] == ["p1.pdb", "p0.pdb"]
        and not found.problems
    )


# --- both


def test_what_a_dataset_is(call, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name in ("a.npy", "b.pdb"):
        (tmp_path / "mixed" / name).write_text("")
    for given, message in (
        ("nowhere", "there is no folder or file"),
        ("empty", "has neither images nor structures nor crystals; known: images: .png"),
        ("mixed", "has both images and structures; keep them apart"),
        ("mixed/a.npy", "has neither images nor structures"),
    ):
        told = refused(
            call("train-graphs", "--output", tmp_path / "run", "--dataset", tmp_path / given)
        )
        assert (
            f"--dataset: {str(tmp_path / given)!r}" in told
            or f"--dataset: there is no folder or file {str(tmp_path / given)!r}" in told
        )
        assert message in told


def test_options_of_another_kind_are_refused(table, structures):
    polymers = featuriser_of(
        PolymerGraphs(None, file=table, text="psmiles", targets="gap", log=False)
    )
    proteins = featuriser_of(ProteinStructures(None, structures, log=False))
    with pytest.raises(
        ValueError, match="tables are for grains of images, and the model reads polymers"
    ):
        graphs_of_files(polymers, [table], tables="here")
    with pytest.raises(
        ValueError, match="text names the column of a CSV of polymers, and the model reads proteins"
    ):
        graphs_of_files(proteins, [structures], text="smiles")
    with pytest.raises(ValueError, match="one CSV file at a time, got 2 files"):
        graphs_of_files(polymers, [table, table])
    with pytest.raises(
        ValueError,
        match=r"the atoms have other properties than the model's \(lacking: helix\); .*train it "
        r"again",
    ):
        graphs_of_files({**polymers, "node_names": [*polymers["node_names"], "helix"]}, [table])
