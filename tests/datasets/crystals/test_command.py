"""``graphformer train-graphs`` and ``graphformer predict`` on crystals."""

import csv
import json

import pytest

pytest.importorskip("gemmi")

import graphformer as gf
from graphformer.datasets.crystals.ionic import energy_per_atom, ionic_crystal
from tests.datasets.crystals.structures import rock_salt
from tests.datasets.crystals.test_structures import ROCK_SALT

SMALL = ["--epochs", "1", "--layers", "1", "--heads", "2", "--hidden-size", "8"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "crystals").mkdir()
    rows = [["file", "energy"]]
    for index in range(8):
        crystal = ionic_crystal(0, index)
        (tmp_path / f"crystals/{index}.json").write_text(json.dumps(crystal.as_dict()))
        rows.append([f"{index}.json", energy_per_atom(crystal)])
    with open(tmp_path / "energies.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


@pytest.mark.slow
def test_train_and_predict(folder, call, recwarn):
    run = folder / "run"
    options = ["--output", run, "--dataset", folder / "crystals", *SMALL]
    targets = ["--targets", folder / "energies.csv"]
    code, out, err = call("train-graphs", *options, *targets, "--cutoff", 4.5, "--neighbors", 8)
    assert code == 0, err
    assert f"next: graphformer predict {run} NEW.cif" in out.replace("\n", " ").replace("  ", " ")
    (folder / "new.cif").write_text(ROCK_SALT)
    (folder / "bad.cif").write_text(ROCK_SALT.replace("0.5 1.0", "0.5 0.8"))
    table = folder / "new.csv"
    code, out, err = call("predict", run, folder / "new.cif", folder / "bad.cif", "--output", table)
    assert code == 0 and "site Cl1 is partly occupied (0.8)" in " ".join(err.split()), err
    rows = list(csv.reader(table.open()))
    assert rows[0] == ["file", "energy"] and [row[0] for row in rows[1:]] == ["new.cif"]
    float(rows[1][1])
    model = gf.training.load_graph_model(run)
    assert model.featuriser["options"] == {"cutoff": 4.5, "neighbors": 8, "gaussians": 32}
    graphs = gf.inspect.graphs(model.net, gf.datasets.crystal_graph(rock_salt(), cutoff=4.5))
    assert graphs.tokens[0][0] == "Na"
    told = " ".join(call("predict", run, folder / "new.cif", "--plot", folder / "plots")[2].split())
    assert "draws polymers, proteins and microstructures, and MODEL_DIR reads crystal" in told


def test_options_of_other_data(folder, call):
    base = ["train-graphs", "--output", folder / "run", "--dataset", folder / "crystals", *SMALL]

    def told(*options):
        code, _, err = call(*base, *options)
        assert code == 2
        return " ".join(err.split())

    assert "--targets is needed with crystals" in told()
    assert "--periodic is for label images" in told("--periodic")
    assert "--smiles-column is for polymers" in told("--smiles-column", "a")
    (folder / "poly.csv").write_text("smiles,gap\n*CC*,1\n")
    base[base.index(folder / "crystals")] = folder / "poly.csv"
    assert "--neighbors is for crystals, and --dataset" in told("--neighbors", 4)
    assert "--cutoff is for proteins" in told("--cutoff", 4)


def test_cif_is_of_proteins_too(folder, call):
    """A folder is what its files say by their content."""
    from graphformer.cli.graph_data import source_of

    assert source_of(str(folder / "crystals")).kind == "crystals"
    (folder / "one").mkdir()
    (folder / "one/a.cif").write_text(ROCK_SALT)
    assert source_of(str(folder / "one")).kind == "crystals"
    (folder / "two").mkdir()
    (folder / "two/a.cif").write_text(
        "data_1abc\nloop_\n_atom_site.id\n_atom_site.Cartn_x\n1 0.5\n"
    )
    assert source_of(str(folder / "two")).kind == "proteins"
    (folder / "two/b.cif").write_text(ROCK_SALT)
    with pytest.raises(ValueError, match="has both structures and crystals; keep them apart"):
        source_of(str(folder / "two"))
