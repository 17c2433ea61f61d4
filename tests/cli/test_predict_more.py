"""What ``graphformer predict`` writes beside its table (pictures, B factors, deviations), and
the parity plot of ``train-graphs``.
"""

import csv
import gzip
import json
import re

import numpy as np
import pytest
import torch

import graphformer as gf
from graphformer.datasets import Microstructures, PolymerGraphs, ProteinStructures
from graphformer.datasets.proteins.b_factors import write_b_factors
from graphformer.inspect import pictures
from graphformer.training import GraphModel, featuriser_of, prediction_table
from graphformer.training.graphs.scaling import Scaling

UNITS = ("*CC*", "*CC(*)C", "*CC(*)F", "*CO*", "*c1ccc(*)s1", "*CC(*)c1ccccc1")
PNG = b"\x89PNG\r\n"


def model_of(dataset, seed=0, **options):
    torch.manual_seed(seed)
    net = gf.GraphTransformer(
        node_dim=dataset[0].x.shape[1],
        edge_dim=dataset[0].edge_attr.shape[1],
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        **options,
    )
    featuriser = json.loads(json.dumps(featuriser_of(dataset)))
    return GraphModel(net.eval(), Scaling(), featuriser)


def rows_of(text):
    return list(csv.reader(text.splitlines()))


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "gaps.csv"
    rows = [["psmiles", "gap"], *([unit, 1.5 + i] for i, unit in enumerate(UNITS))]
    path.write_text("".join(f"{unit},{gap}\n" for unit, gap in rows))
    return path


@pytest.fixture
def polymers(table):
    return PolymerGraphs(None, file=table, text="psmiles", targets="gap", log=False)


@pytest.fixture
def structure(tmp_path):
    """A chain with an inserted residue, one without a CA atom, and a water."""
    pytest.importorskip("biotite")
    from tests.datasets.proteins.test_protein_structures import helix

    lines = helix(["1", "2", "2A", "3", "4", "5", "6"], leave={("6", "CA")})
    water = "HETATM 9999  O   HOH A  99      40.000  40.000  40.000  1.00 33.00           O  "
    path = tmp_path / "a.pdb"
    path.write_text("\n".join(["REMARK kept", *lines, water, "END", ""]))
    return path


# --- columns of a CSV


def test_own_columns_stand_as_they_are_before_the_predictions(call, polymers, tmp_path):
    model_of(polymers).save(tmp_path / "model")
    new = tmp_path / "new.csv"
    new.write_text('name,psmiles,file,gap,gap (predicted)\n"a, b",*CC*,x,1.50,\n,*CO*,,n/a,7\n')
    code, out, err = call("predict", tmp_path / "model", new)
    assert code == 0
    header, *rows = rows_of(out)
    own = ["name", "psmiles", "file", "gap", "gap (predicted)"]
    assert header == ["file (source)", "row", *own, "gap (predicted 2)"]
    assert [row[2:7] for row in rows] == [
        ["a, b", "*CC*", "x", "1.50", ""],
        ["", "*CO*", "", "n/a", "7"],
    ]
    assert all(float(row[7]) for row in rows)
    assert "a column is called 'gap' already; ours is 'gap (predicted 2)'" in err
    assert "a column is called 'file' already; ours is 'file (source)'" in err


# --- pictures


def test_pictures_of_polymers_up_to_the_limit(call, refused, polymers, table, tmp_path):
    pytest.importorskip("matplotlib")
    model_of(polymers, candidates="edges+k_hop:2").save(tmp_path / "model")
    arguments = ["predict", tmp_path / "model", table]
    code, _, err = call(*arguments, "--plot", tmp_path / "pictures", "--plot-limit", 2)
    assert (
        code == 0
        and "warning: pictures of the first 2 of 6 inputs; --plot-limit 6 draws all" in err
    )
    made = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in made] == ["gaps.csv-row1.png", "gaps.csv-row2.png"]
    assert all(path.read_bytes().startswith(PNG) for path in made)
    told = refused(call(*arguments, "--plot", tmp_path / "pictures"))
    assert "--plot: " in told and "is there already" in told and "name a new folder" in told
    assert "--plot-limit has no effect without --plot" in refused(
        call(*arguments, "--plot-limit", 3)
    )


def test_a_copolymer_is_drawn_and_a_graph_of_another_polymer_is_refused(polymers, tmp_path):
    figure = pytest.importorskip("matplotlib.figure")
    text = "[*:1]CC[*:2].[*:3]CC([*:4])C|0.5|0.5|<1-3:0.5:0.5<2-4:0.5:0.5"
    graph = gf.datasets.polymer_graph(text)
    model = model_of(polymers)
    pictures.plot_polymer(model, graph, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    axes = figure.Figure().add_subplot()
    with pytest.raises(ValueError, match=r"graph has 5 nodes, and '\*CC\*' has 2 atoms"):
        pictures.draw_polymer(axes, "*CC*", pictures.refined_graph(model, graph))


def test_shares_are_relative_to_an_equal_share(polymers):
    graph = pictures.refined_graph(model_of(polymers, normalize="sigmoid"), polymers[4])
    share, receivers = pictures.shares(graph), graph.receivers.numpy()
    count = np.bincount(receivers)
    assert np.bincount(receivers, weights=share) == pytest.approx(count)
    assert share.std() > 0


@pytest.mark.slow
def test_a_contact_map_has_attention_above_and_contacts_below(structure):
    figure = pytest.importorskip("matplotlib.figure")
    data = ProteinStructures(None, structure, target=None, log=False)
    graph = pictures.refined_graph(model_of(data, target="node"), data[0])
    axes = figure.Figure().add_subplot()
    pictures.draw_contacts(axes, data[0], graph)
    below, above = (np.ma.filled(one.get_array(), np.nan) for one in axes.get_images())
    pairs = set(map(tuple, data[0].edge_index.T.tolist()))
    for i, j in np.ndindex(below.shape):
        assert np.isfinite(below[i, j]) == (i > j and (i, j) in pairs)
    assert np.isfinite(above).sum() == np.isfinite(below).sum()
    assert not np.isfinite(np.tril(above, -1)[np.tril_indices(len(above), -1)]).any()


@pytest.mark.parametrize("periodic", [True, False])
def test_pictures_of_grains(call, tmp_path, periodic):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "images"
    folder.mkdir()
    y, x = np.indices((12, 17))
    np.save(folder / "a.npy", 3 + (y // 5) * 4 + x // 5)
    data = Microstructures(folder, periodic=periodic, spacing=0.5, log=False)
    model = model_of(data)
    model.featuriser["target_names"] = ["stiffness"]
    model.save(tmp_path / "model")
    code, out, err = call(
        "predict", tmp_path / "model", folder / "a.npy", "--plot", tmp_path / "pictures"
    )
    assert code == 0, err
    assert rows_of(out)[0] == ["file", "stiffness"]
    assert (tmp_path / "pictures/a.npy.png").read_bytes().startswith(PNG)
    labels = np.load(folder / "a.npy")
    figure = pictures.plot_grains(model, data[0], labels, periodic=periodic, spacing=0.5)
    (axes,) = figure.axes
    lines = np.array([path.vertices for path in axes.collections[0].get_paths()])
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    graph = data[0]
    distance = graph.edge_attr[:, data.edge_names.index("distance")]
    assert sorted(length) == pytest.approx(sorted((distance / 2).tolist()), rel=1e-4)
    with pytest.raises(ValueError, match="labels lack grain 3 of the graph"):
        pictures.plot_grains(model, graph, labels + 100)
    for spacing in (5.0, 0.01):
        with pytest.raises(ValueError, match=rf"spacing={spacing}: the graph has grain \d+ at"):
            pictures.plot_grains(model, graph, labels, periodic=periodic, spacing=spacing)


# --- parity


def test_parity_tells_the_scores_and_leaves_missing_labels_out(tmp_path):
    pytest.importorskip("matplotlib")
    true = torch.tensor([[1.0, 0.0], [2.0, float("nan")], [4.0, 1.0]])
    predicted = torch.tensor([[1.5, 0.0], [2.0, 9.0], [3.5, 1.0]])
    figure = gf.inspect.plot_parity(true, predicted, tmp_path / "a.png", names=["Tg, K", "gap"])
    first, second = (axes.get_title() for axes in figure.axes)
    spread = float(((true[:, 0] - true[:, 0].mean()) ** 2).sum())
    assert first == f"Tg, K: R2 {1 - 0.5 / spread:.3f}, MAE 0.333\n3 values"
    assert second == "gap: R2 1.000, MAE 0\n2 values, 1 without a label"
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    classes = gf.inspect.plot_parity([0, 0, 1, 2], [0, 1, 1, 2], classes="HEC")
    assert classes.axes[0].get_title() == "accuracy 0.750\n4 values"
    cells = [text.get_text() for text in classes.axes[0].texts]
    assert cells[:4] == ["1\n50%", "1\n50%", "0\n0%", "0\n0%"]


@pytest.mark.parametrize(
    ("true", "predicted", "options", "message"),
    [
        ([1.0, 2.0], [1.0], {}, "predicted must have the shape of true"),
        ([1.0], [float("inf")], {}, "values that are not finite"),
        ([float("nan")], [1.0], {}, "no label in column 0"),
        ([1.0], [1.0], {"names": ["a", "b"]}, "a name for each of 1 columns, got 2"),
        ([0, 3], [0, 1], {"classes": "HEC"}, "true must hold places in classes, 0 to 2"),
        ([], [], {}, r"true must be \[N\] or \[N, k\]"),
    ],
)
def test_parity_refuses_what_does_not_fit(true, predicted, options, message):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=message):
        gf.inspect.plot_parity(true, predicted, **options)


@pytest.mark.slow
def test_train_graphs_draws_the_held_out_graphs(call, tmp_path, table):
    pytest.importorskip("matplotlib")
    small = ["--epochs", 1, "--hidden-size", 8, "--layers", 1, "--heads", 2]
    run = tmp_path / "run"
    code, _, err = call(
        "train-graphs",
        "--output",
        run,
        "--dataset",
        table,
        "--target-columns",
        "gap",
        "--smiles-column",
        "psmiles",
        *small,
    )
    assert code == 0, err
    assert (run / "parity.png").read_bytes().startswith(PNG)
    assert rows_of((run / "predictions.csv").read_text())[0] == ["y", "y_predicted"]


# --- B factors


def b_factors(path):
    lines = [line for line in path.read_text().splitlines() if line[:6] in ("ATOM  ", "HETATM")]
    return [(line[21:27].strip(), float(line[60:66])) for line in lines]


def test_b_factors_are_the_predictions_of_residues(call, refused, structure, tmp_path):
    data = ProteinStructures(None, structure, target="exposure", log=False)
    model_of(data, target="node").save(tmp_path / "model")
    arguments = ["predict", tmp_path / "model", structure]
    code, out, err = call(*arguments, "--bfactors", tmp_path / "b")
    assert code == 0
    predicted = {
        f"A{row[2]:>4}" if row[2][-1].isdigit() else f"A{row[2]:>5}": float(row[4])
        for row in rows_of(out)[1:]
    }
    predicted = {re.sub(r"\s+", "", name): value for name, value in predicted.items()}
    for name, value in b_factors(tmp_path / "b/a.pdb"):
        assert value == pytest.approx(predicted.get(re.sub(r"\s+", "", name), 0), abs=0.00501)
    assert len(predicted) == 6
    assert (
        "warning: a.pdb: B factor 0 where there is no prediction: 1 of protein (ALA A6), 1 other "
        "(HOH A99)" in err
    )
    old, new = (path.read_text().splitlines() for path in (structure, tmp_path / "b/a.pdb"))
    assert [line[:60] + line[66:] for line in new] == [
        line.ljust(66)[:60] + line[66:] if line[:4] in ("ATOM", "HETA") else line for line in old
    ]
    assert "--bfactors: " in (told := refused(call(*arguments, "--bfactors", tmp_path / "b")))
    assert "is there already, and nothing is written over; name a new folder" in told


def test_b_factors_in_mmcif_and_packed_files(structure, tmp_path):
    pdb = pytest.importorskip("biotite.structure.io.pdb")
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    atoms = pdb.PDBFile.read(structure).get_structure(model=1, extra_fields=["b_factor"])
    for kind, name in ((pdbx.CIFFile, "a.cif"), (pdbx.BinaryCIFFile, "a.bcif")):
        file = kind()
        pdbx.set_structure(file, atoms)
        file.write(tmp_path / name)
        values = [0.125 * (i + 1) for i in range(6)]
        write_b_factors(tmp_path / name, tmp_path / "out" / name, {1: values})
        read = kind.read(tmp_path / "out" / name)
        found = pdbx.get_structure(read, model=1, extra_fields=["b_factor"])
        assert (found.res_id == atoms.res_id).all() and (found.ins_code == atoms.ins_code).all()
        alpha = found.b_factor[(found.atom_name == "CA") & ~found.hetero]
        assert alpha == pytest.approx(values)
        assert (found.b_factor[found.res_name == "HOH"] == 0).all()
    packed = tmp_path / "a.pdb.gz"
    packed.write_bytes(gzip.compress(structure.read_bytes()))
    write_b_factors(packed, tmp_path / "out/a.pdb.gz", {1: [12345.6, -0.5, 1e5, 0, 0, 0]})
    text = gzip.decompress((tmp_path / "out/a.pdb.gz").read_bytes()).decode()
    assert [line[60:66] for line in text.splitlines() if line[12:16] == " CA "][:3] == [
        " 12346",
        " -0.50",
        "100000",
    ]
    for values, message in (
        ({1: [0.0] * 5}, "has 6 residues, got 5 numbers"),
        ({2: [0.0] * 6}, "name model 2, and .* has 1; give one of these"),
        ({1: [1e7] * 6}, "more than the six places of a B factor"),
    ):
        with pytest.raises(ValueError, match=message):
            write_b_factors(structure, tmp_path / "no.pdb", values)
    assert not (tmp_path / "no.pdb").exists()


def test_models_without_a_prediction_get_no_b_factor(structure, tmp_path):
    atoms = [line for line in structure.read_text().splitlines() if line.startswith("ATOM")]
    two = tmp_path / "two.pdb"
    two.write_text("\n".join(["MODEL 1", *atoms, "ENDMDL", "MODEL 2", *atoms, "ENDMDL", ""]))
    told = write_b_factors(two, tmp_path / "out.pdb", {1: [1.5] * 6})
    assert told == [
        "B factor 0 where there is no prediction: 1 of protein (ALA A6)",
        "B factor 0 in the models without a prediction: 1 of 2",
    ]
    found = [value for name, value in b_factors(tmp_path / "out.pdb") if name[1:].strip() != "6"]
    assert found == [1.5] * (len(found) // 2) + [0.0] * (len(found) // 2)


def test_b_factors_that_do_not_fit_leave_no_folder(call, refused, structure, tmp_path):
    data = ProteinStructures(None, structure, target="exposure", log=False)
    model = model_of(data, target="node")
    named = model.net.named_parameters()
    (bias,) = [one for name, one in named if name.endswith("bias") and one.shape == (1,)]
    bias.data.fill_(1e9)
    model.save(tmp_path / "model")
    out = ["--output", tmp_path / "out.csv"]
    code, _, err = call(
        "predict", tmp_path / "model", structure, *out, "--bfactors", tmp_path / "b"
    )
    assert code == 2 and "give a.pdb as mmCIF" in err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"a.pdb", "model", "out.csv"}


def test_b_factors_are_refused_where_they_do_not_fit(
    call, refused, polymers, table, structure, tmp_path
):
    model_of(polymers).save(tmp_path / "model")
    told = refused(call("predict", tmp_path / "model", table, "--bfactors", tmp_path / "b"))
    assert "is for models of proteins, and MODEL_DIR reads polymers; leave it out" in told
    whole = ProteinStructures(None, structure, target=None, log=False)
    model_of(whole).save(tmp_path / "whole")
    told = refused(call("predict", tmp_path / "whole", structure, "--bfactors", tmp_path / "b"))
    assert "MODEL_DIR predicts for whole proteins; leave it out" in told
    assert not (tmp_path / "b").exists()


# --- uncertainty


def test_samples_are_the_mean_and_deviation_of_passes_with_dropout(
    call, refused, polymers, table, tmp_path
):
    model = model_of(polymers, dropout=0.3)
    model.save(tmp_path / "model")
    state = torch.random.get_rng_state()
    passes = model.sample(polymers, 5)
    assert (torch.random.get_rng_state() == state).all()
    assert passes.shape == (5, 6, 1) and (passes.std(0) > 0).all() and not model.net.training
    assert torch.equal(passes, model.sample(polymers, 5))
    code, out, _ = call("predict", tmp_path / "model", table, "--samples", 5)
    header, *rows = rows_of(out)
    assert code == 0 and header[-2:] == ["gap (predicted)", "gap_std"]
    found = torch.tensor([[float(cell) for cell in row[-2:]] for row in rows])
    assert torch.allclose(found[:, :1], passes.mean(0), rtol=1e-4)
    assert torch.allclose(found[:, 1:], passes.std(0), rtol=1e-4)

    model_of(polymers).save(tmp_path / "plain")
    told = refused(call("predict", tmp_path / "plain", table, "--samples", 5))
    assert "--samples 5: " in told and "was trained without dropout" in told
    with pytest.raises(ValueError, match="samples: the model has no dropout"):
        model_of(polymers).sample(polymers, 5)


def test_an_ensemble_is_the_mean_and_deviation_of_its_models(
    call, refused, polymers, table, structure, tmp_path
):
    models = [model_of(polymers, seed) for seed in range(3)]
    for seed, model in enumerate(models):
        model.save(tmp_path / f"m{seed}")
    further = ["--ensemble", tmp_path / "m1", "--ensemble", tmp_path / "m2"]
    code, out, _ = call("predict", tmp_path / "m0", table, *further)
    assert code == 0
    made = torch.stack([model.predict(polymers) for model in models])
    found = torch.tensor([[float(cell) for cell in row[-2:]] for row in rows_of(out)[1:]])
    assert torch.allclose(found[:, :1], made.mean(0), rtol=1e-4)
    assert torch.allclose(found[:, 1:], made.std(0), rtol=1e-4)
    told = refused(call("predict", tmp_path / "m0", table, "--ensemble", tmp_path / "m0"))
    assert "m0' is there twice" in told and "name each model once" in told
    model_of(ProteinStructures(None, structure, target=None, log=False)).save(tmp_path / "other")
    told = refused(call("predict", tmp_path / "m0", table, "--ensemble", tmp_path / "other"))
    assert f"--ensemble {str(tmp_path / 'other')!r}: its reader are protein" in told


def test_deviations_of_classes_are_those_of_probabilities(structure):
    data = ProteinStructures(None, structure, target="secondary", log=False)
    model = model_of(data, target="node", task="classification", out_dim=3, dropout=0.2)
    found = prediction_table(model, [structure], samples=4)
    chances = ["p_H", "p_E", "p_C"]
    deviations = [f"{name}_std" for name in chances]
    assert found.columns[4:] == ["secondary", *chances, *deviations]
    passes = model.sample(data, 4).softmax(-1)
    values = torch.tensor([row[5:] for row in found.rows])
    assert torch.allclose(values, torch.cat((passes.mean(0), passes.std(0)), -1), atol=1e-6)
