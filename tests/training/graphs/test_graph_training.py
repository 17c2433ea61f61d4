"""Training of graph models: batches by a budget of nodes, scaling, exact resume, saved models, the
command line.
"""

import csv
import itertools
import json
import math
import re
import runpy
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

import graphformer as gf
from graphformer.datasets import Microstructures, PolycrystalDataset
from graphformer.errors import MissingExtra
from graphformer.models import Target
from graphformer.training import (
    GraphModel,
    GraphTrainer,
    NodeBudgetSampler,
    Scaling,
    checkpoint_problems,
    cross_validate,
    featuriser_of,
    graphs_of_files,
    load_graph_model,
)
from graphformer.training.graphs.metrics import classification_metrics, regression_metrics
from tests.conftest import ROOT

NAN = math.nan
SMALL = {
    "num_grains": (4, 9),
    "resolution": 12,
    "law": "two-phase",
    "contrast": 100.0,
    "log": False,
}


@pytest.fixture(scope="module")
def graphs():
    return PolycrystalDataset(None, 30, **SMALL)


def make_net(dropout=0.0, **changes):
    torch.manual_seed(0)
    return gf.GraphTransformer(
        **{
            "node_dim": 6,
            "edge_dim": 2,
            "hidden_size": 8,
            "num_layers": 2,
            "num_heads": 2,
            "dropout": dropout,
            **changes,
        }
    )


def make_trainer(folder, graphs, net=None, **changes):
    train, validation = graphs.split((22, 8))
    options = {
        "epochs": 4,
        "max_nodes": 40,
        "learning_rate": 1e-2,
        "target_scaling": "log",
        "save_total_limit": None,
        "progress": False,
    }
    return GraphTrainer(net or make_net(0.2), train, validation, folder, **{**options, **changes})


@pytest.fixture(scope="module")
def finished(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, make_trainer(folder, graphs).fit()


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


# ---- Batches


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    max_nodes=st.integers(1, 60),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
    processes=st.integers(1, 3),
)
def test_every_graph_once_an_epoch_within_the_budget(sizes, max_nodes, shuffle, seed, processes):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        options = {"shuffle": shuffle, "seed": seed, "epochs": 3}
        whole = NodeBudgetSampler(sizes, max_nodes, **options)
    assert bool(told) == (max(sizes) > max_nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = [
            list(NodeBudgetSampler(sizes, max_nodes, rank=r, processes=processes, **options))
            for r in range(processes)
        ]
    steps, start = list(whole), 0
    assert len(steps) == len(whole) == whole.ends[-1]
    for epoch, end in enumerate(whole.ends):
        batches, start = steps[start:end], end
        assert batches == whole.batches(epoch)
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(sizes)))
        for batch in batches:
            assert batch and (
                sum(sizes[i] for i in batch) <= max_nodes
                or len([i for i in batch if sizes[i]]) == 1
            )
        for batch, later in itertools.pairwise(batches):  # no batch is closed before it must be
            assert sum(sizes[i] for i in batch) + sizes[later[0]] > max_nodes
    # Processes take as many steps as one another, and between them every batch.
    assert len({len(share) for share in shares}) == 1
    assert {tuple(batch) for share in shares for batch in share} == {
        tuple(batch) for batch in steps
    }


def test_order_is_seeded_and_changes_from_epoch_to_epoch():
    sizes = list(range(1, 30))
    one = NodeBudgetSampler(sizes, 50, shuffle=True, seed=1, epochs=2)
    assert (
        list(one) == list(one) == list(NodeBudgetSampler(sizes, 50, shuffle=True, seed=1, epochs=2))
    )
    assert (
        one.batches(0)
        != one.batches(1)
        != NodeBudgetSampler(sizes, 50, shuffle=True, seed=2).batches(1)
    )


def test_a_graph_beyond_the_budget_is_alone_and_told():
    with pytest.warns(
        UserWarning, match="max_nodes=10: 1 of 3 graphs are larger .the largest has 25 nodes"
    ):
        assert list(NodeBudgetSampler([4, 25, 5], 10)) == [[0], [1], [2]]


class Unnamed(gf.attention.Normalizer):
    """A normalizer of one's own whose class was given no name."""

    def weights(self, scores, pairs):
        return scores.relu()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 5), "at least one graph"),
        (([3], 0), "max_nodes must be at least 1, got 0"),
        (([3], 5, "epochs"), "epochs must be at least 1, got 0"),
    ],
)
def test_sampler_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        NodeBudgetSampler(*arguments[:2], **{name: 0 for name in arguments[2:]})


# ---- Metrics and scaling


def test_regression_metrics_by_hand():
    p, y = (
        torch.tensor([[1.0, 5.0], [2.0, 0.0], [4.0, 1.0]]),
        torch.tensor([[1.0, 4.0], [3.0, NAN], [5.0, 2.0]]),
    )
    found = regression_metrics(p, y)
    assert found["mae"] == pytest.approx((0 + 1 + 1 + 1 + 1) / 5) and found[
        "rmse"
    ] == pytest.approx(math.sqrt(4 / 5))
    assert found["r2"] == pytest.approx(((1 - 2 / 8) + (1 - 2 / 2)) / 2)
    assert all(
        math.isnan(value) for value in regression_metrics(p, torch.full_like(y, NAN)).values()
    )


def test_correlation_by_hand():
    p, y = (
        torch.tensor([[1.0, 5.0], [2.0, 0.0], [6.0, 5.0]]),
        torch.tensor([[1.0, 4.0], [3.0, NAN], [5.0, 2.0]]),
    )
    # The second column has one prediction for two labels: R2, but no correlation.
    assert regression_metrics(p, y)["pearson"] == pytest.approx(np.corrcoef(p[:, 0], y[:, 0])[0, 1])
    assert math.isnan(regression_metrics(p[:, 1:], y[:, 1:])["pearson"])
    assert regression_metrics(-3 * y[:, :1] + 1, y[:, :1])["pearson"] == pytest.approx(-1)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_regression_metrics_do_not_depend_on_the_unit(unit):
    y = torch.randn(11, 3, dtype=torch.float64)
    p = y + 1e-3 * torch.randn(11, 3)
    one, other = regression_metrics(p, y), regression_metrics((p + 50) * unit, (y + 50) * unit)
    assert one["r2"] == pytest.approx(
        float((1 - (p - y).square().sum(0) / (y - y.mean(0)).square().sum(0)).mean()), rel=1e-12
    )
    assert other["r2"] == pytest.approx(one["r2"], rel=1e-9) and other["pearson"] == pytest.approx(
        one["pearson"], rel=1e-9
    )
    assert other["mae"] == pytest.approx(one["mae"] * unit) and other["rmse"] == pytest.approx(
        one["rmse"] * unit
    )


def test_regression_of_constants_and_of_a_diverged_model():
    y = torch.tensor([[2.0], [2.0], [NAN]])
    found = regression_metrics(torch.tensor([[1.0], [2.0], [3.0]]), y)
    assert found["mae"] == 0.5 and math.isnan(found["r2"]) and math.isnan(found["pearson"])
    found = regression_metrics(torch.tensor([[1.0], [NAN]]), torch.tensor([[1.0], [2.0]]))
    assert all(math.isnan(value) for value in found.values())


def test_classification_metrics_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    # Labels 0 and 0, said 0 and 1: class 0 has TP 1, FN 1; class 1 has FP 1. One class alone has no
    # ROC curve.
    found = classification_metrics(logits, torch.tensor([0, 0, -1]))
    assert found == {
        "accuracy": 0.5,
        "f1": pytest.approx((2 / 3 + 0) / 2),
        "auroc": pytest.approx(NAN, nan_ok=True),
    }
    found = classification_metrics(logits[:, :1], torch.tensor([[1.0], [1.0], [NAN]]))
    assert found == {
        "accuracy": 0.5,
        "f1": pytest.approx(1 / 3),
        "auroc": pytest.approx(NAN, nan_ok=True),
    }
    three = torch.eye(3)[[0, 1, 1, 0]]
    # Class 2 is neither there nor said; said 0, 1, 1, 0 for 0, 1, 0, 0.
    assert classification_metrics(three, torch.tensor([0, 1, 0, 0])) == {
        "accuracy": 0.75,
        "f1": pytest.approx((4 / 5 + 2 / 3) / 2),
    }


def test_area_under_the_roc_curve_by_hand():
    """Of pairs (class 1, class 0) the share in which class 1 is higher, ties being a half. Logits
    in (0, 1) are no probabilities.
    """
    score, y = torch.tensor([0.3, 0.9, 0.3, 100.0, 99.0]), torch.tensor([1, 1, 0, 1, 0])
    area = pytest.approx((0.5 + 0 + 1 + 0 + 1 + 1) / 6)
    found = classification_metrics(score[:, None], y[:, None].float())
    assert found["auroc"] == area and found["accuracy"] == pytest.approx(3 / 5)
    assert classification_metrics(torch.stack((-score, score), 1), y)["auroc"] == area
    # Two questions: the second has an answer that is missing and one class only.
    second = torch.tensor([1.0, NAN, 1.0, 1.0, 1.0])
    found = classification_metrics(
        torch.stack((score, -score), 1), torch.stack((y.float(), second), 1)
    )
    assert found["auroc"] == area and found["accuracy"] == pytest.approx(3 / 9)
    assert found["f1"] == pytest.approx(((2 * 3 / (2 * 3 + 2)) / 2 + 0) / 2)


@pytest.mark.parametrize("labels", [torch.full((3, 1), NAN), torch.zeros(0, 1)])
def test_without_labels_there_is_no_metric(labels):
    logits = torch.randn(len(labels), 1)
    assert {
        name: math.isnan(value) for name, value in classification_metrics(logits, labels).items()
    } == dict.fromkeys(("accuracy", "f1", "auroc"), True)
    assert all(math.isnan(value) for value in regression_metrics(logits, labels).values())
    wide = classification_metrics(torch.randn(len(labels), 3), torch.full((len(labels),), -1))
    assert wide.keys() == {"accuracy", "f1"} and all(math.isnan(value) for value in wide.values())


def test_metrics_name_the_extra(graphs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(
        MissingExtra, match=r"needs the package 'torchmetrics'.*graphformer\[graphs\]"
    ):
        regression_metrics(torch.ones(1, 1), torch.ones(1, 1))
    # before training, not after its first epoch
    with pytest.raises(MissingExtra, match=r"graphformer\[graphs\]"):
        make_trainer(tmp_path / "run", graphs)


@pytest.mark.parametrize("kind", ["standard", "log", "none"])
def test_scaling_round_trip(graphs, kind):
    scaling = Scaling.from_dict(
        json.loads(json.dumps(Scaling.fit(make_net(), graphs, kind).to_dict()))
    )
    y = torch.cat([g.y for g in graphs])
    scaled = scaling.apply("y", y)
    assert torch.allclose(scaling.restore("y", scaled), y, rtol=1e-5)
    if kind != "none":
        assert scaled.mean().abs() < 1e-5 and scaled.std(correction=0) == pytest.approx(1, abs=1e-4)
    x = torch.cat([scaling.inputs(g).x for g in graphs])
    assert x.mean(0).abs().max() < 1e-4 and torch.allclose(
        x.std(0, correction=0), torch.ones(6), atol=1e-3
    )
    # and the data stay as they are
    assert not torch.equal(graphs[0].x, scaling.inputs(graphs[0]).x)


def test_scaling_leaves_nan_and_constants():
    data = [
        Data(
            x=torch.tensor([[1.0, i]]),
            edge_index=torch.zeros(2, 0, dtype=torch.long),
            y=torch.tensor([[i, NAN, 3.0]]),
        )
        for i in (1.0, 3.0)
    ]
    data[0].y[0, 1] = 7.0
    scaling = Scaling.fit(gf.GraphTransformer(2, out_dim=3, hidden_size=4, num_heads=1), data)
    assert scaling.means["y"] == [2.0, 7.0, 3.0] and scaling.spreads["y"] == [1.0, 1.0, 1.0]
    assert scaling.apply("y", data[1].y)[0, 1].isnan()


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        (None, "standard", r"train_dataset has no label data\.y at all"),
        (NAN, "standard", r"train_dataset has no label data\.y at all"),
        (math.inf, "standard", r"data\.y of graph 0 is infinite; use NaN"),
        (
            -1.0,
            "log",
            "target_scaling='log' needs positive labels, and data.y of graph 0 has -1; use "
            "'standard'",
        ),
        (1.0, "sqrt", "unknown target_scaling 'sqrt'; known: standard, log, none"),
    ],
)
def test_labels_that_cannot_be_scaled(y, kind, message):
    data = Data(x=torch.ones(2, 6), edge_index=torch.tensor([[0], [1]]), edge_attr=torch.ones(1, 2))
    if y is not None:
        data.y = torch.tensor([[y]])
    with pytest.raises(ValueError, match=message):
        Scaling.fit(make_net(), [data], kind)


# ---- The run


def test_a_run_learns_and_keeps_its_best_weights(finished, graphs):
    _, result = finished
    evaluated = [line for line in result.history if "eval_loss" in line]
    assert len(evaluated) == result.epochs == 4 and result.resumed_from == 0
    assert result.metrics["loss"] == pytest.approx(
        min(line["eval_loss"] for line in evaluated), rel=1e-6
    )
    validation = graphs.split((22, 8))[1]
    assert (
        result.metrics["loss"]
        < 0.97 * GraphModel(make_net(0.2), result.model.scaling).evaluate(validation)["loss"]
    )
    y = torch.cat([g.y for g in validation])
    assert result.metrics["mae"] == pytest.approx(
        float((result.model.predict(validation) - y).abs().mean()), rel=1e-5
    )


def test_an_interrupted_run_continues_bit_for_bit(finished, folder, graphs):
    steps = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    for step in steps[2:]:
        shutil.rmtree(folder / f"checkpoint-{step}")
    result = make_trainer(folder, graphs).fit(resume=True)
    assert result.resumed_from == steps[1] and result.steps == steps[-1]
    assert same_weights(result.model.net, finished[1].model.net)
    last = [path / f"checkpoint-{steps[-1]}/model.safetensors" for path in (folder, finished[0])]
    assert last[0].read_bytes() == last[1].read_bytes()
    kept = [
        [{k: v for k, v in line.items() if "loss" in k or k == "step"} for line in r.history[:-1]]
        for r in (result, finished[1])
    ]
    assert kept[0] == kept[1]


def test_a_finished_run_takes_no_further_step(finished, folder, graphs):
    again = make_trainer(folder, graphs).fit(resume=True)
    assert again.steps == again.resumed_from == finished[1].steps and same_weights(
        again.model.net, finished[1].model.net
    )


def test_other_settings_and_data_are_refused(folder, graphs):
    with pytest.raises(
        ValueError, match=r"learning_rate was 0.01, now it is 0.1.*Give the same settings"
    ):
        make_trainer(folder, graphs, learning_rate=0.1).fit(resume=True)
    with pytest.raises(ValueError, match=r"train\.graphs was"):
        make_trainer(folder, PolycrystalDataset(None, 30, seed=5, **SMALL)).fit(resume=True)
    with pytest.raises(ValueError, match="is not empty, and nothing in it is written over"):
        make_trainer(folder, graphs).fit()


def test_early_stopping_and_its_resume(graphs, tmp_path):
    options = {"epochs": 30, "patience": 2, "learning_rate": 0.05}
    first = make_trainer(tmp_path / "run", graphs, **options).fit()
    losses = [line["eval_loss"] for line in first.history if "eval_loss" in line]
    assert first.epochs < 30 and len(losses) == first.epochs == int(np.argmin(losses)) + 3
    again = make_trainer(tmp_path / "run", graphs, **options).fit(resume=True)
    assert again.steps == first.steps and same_weights(again.model.net, first.model.net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1"),
        (
            {"net": make_net(normalize=Unnamed())},
            "normalize cannot be saved with the model: a Unnamed has no plain form: register",
        ),
    ],
)
def test_trainer_refuses(graphs, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "run", graphs, **changes)


def test_several_targets_with_missing_labels_and_progress(tmp_path, capfd):
    made = []
    for i in range(12):
        x = torch.randn(5, 3)
        ring = torch.arange(5)
        y = torch.tensor([[float(x.sum())]]) if i % 3 else torch.tensor([[NAN]])
        made.append(
            Data(
                x=x,
                edge_index=torch.stack((ring, (ring + 1) % 5)),
                gap=y,
                kind=(x[:, 0] > 0).long(),
            )
        )
    targets = {"gap": Target("graph"), "kind": Target("node", 2, "classification", weight=0.5)}
    torch.manual_seed(0)
    net = gf.GraphTransformer(
        3, hidden_size=8, num_layers=1, num_heads=2, target=targets, sparsify=gf.Threshold(0.01)
    )
    result = GraphTrainer(
        net, made[:9], made[9:], tmp_path / "run", epochs=2, max_nodes=12, eval_epochs=2
    ).fit()
    assert {
        "loss",
        "gap_mae",
        "gap_rmse",
        "gap_r2",
        "gap_pearson",
        "kind_accuracy",
        "kind_f1",
        "kind_auroc",
    } == set(result.metrics)
    assert math.isfinite(result.metrics["loss"])
    out, err = capfd.readouterr()
    assert "validation loss" in out and "kind_accuracy" in out and not err  # no bar in a pipe
    loaded = load_graph_model(tmp_path / "run")
    assert loaded.net.targets == net.targets and loaded.net.settings["sparsify"]["tau"] == 0.01
    ours, theirs = result.model.predict(made), loaded.predict(made, 5)
    assert ours["gap"].shape == (12, 1) and ours["kind"].shape == (60, 2)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_folds_hold_every_graph_once(graphs, tmp_path):
    result = cross_validate(make_net, graphs, tmp_path, 3, epochs=1, progress=False)
    assert len(result["folds"]) == 3
    r2 = [fold["rmse"] for fold in result["folds"]]
    assert result["mean"]["rmse"] == pytest.approx(np.mean(r2)) and result["std"][
        "rmse"
    ] == pytest.approx(np.std(r2, ddof=1))
    assert json.loads((tmp_path / "folds.json").read_text()) == result
    assert (
        cross_validate(make_net, graphs, tmp_path, 3, epochs=1, progress=False, resume=True)
        == result
    )
    with pytest.raises(ValueError, match="validation must be between 0 and 1, got 2"):
        cross_validate(make_net, graphs, tmp_path, 3, validation=2, epochs=1)


# ---- Saved models


def test_save_load_predict(finished, graphs, tmp_path):
    model = finished[1].model
    expected = model.predict(graphs)
    assert expected.shape == (30, 1)
    # batches change nothing
    assert torch.allclose(model.predict(graphs, max_nodes=1), expected, rtol=1e-5)
    model.save(tmp_path / "saved")
    newest = max(finished[0].glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert checkpoint_problems(newest) == [] and load_graph_model(newest)
    for folder in (tmp_path / "saved", finished[0]):
        loaded = load_graph_model(folder)
        assert (
            not loaded.net.training
            and loaded.scaling == model.scaling
            and loaded.featuriser == featuriser_of(graphs)
        )
        assert torch.equal(loaded.predict(graphs), expected)


def test_prediction_needs_no_labels_and_evaluation_does(finished, graphs):
    model, bare = finished[1].model, [g.clone() for g in graphs]
    for g in bare:
        del g.y
    assert torch.equal(model.predict(bare), model.predict(graphs))
    with pytest.raises(ValueError, match=r"data\.y is missing: an evaluation needs labels"):
        model.evaluate(bare)
    with pytest.raises(ValueError, match="the data set is empty"):
        model.predict([])
    out = model.output(graphs[0])
    assert (
        torch.allclose(out.prediction, model.predict(graphs[:1]), rtol=1e-5)
        and len(out.refined) == 2
        and out.loss is None
    )


@pytest.mark.parametrize("part", ["model.safetensors", "config.json"])
def test_a_damaged_model_is_named(folder, part):
    (folder / part).write_bytes((folder / part).read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"holds no complete model \({part} .*cut short"):
        load_graph_model(folder)


def test_an_object_as_target_is_saved(tmp_path):
    net = gf.GraphTransformer(
        2,
        hidden_size=4,
        num_heads=1,
        num_layers=1,
        target=Target("node", 2, loss="mae"),
        sparsify=gf.TopK(2),
    )
    GraphModel(net).save(tmp_path)
    loaded = load_graph_model(tmp_path).net
    assert loaded.targets == net.targets and loaded.single and same_weights(loaded, net)


# ---- From files


def write_images(folder, graphs, count):
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        made = graphs.image(i)
        np.save(folder / f"p{i}.npy", made.labels)
        lines = [
            ["label", "log_conductivity"],
            *([j, value] for j, value in enumerate(made.properties[:, 0].tolist())),
        ]
        with open(folder / f"p{i}.csv", "w", newline="") as file:
            csv.writer(file).writerows(lines)
        rows.append([f"p{i}.npy", float(graphs[i].y)])
    with open(folder / "targets.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "conductivity"], *rows])
    return [folder / f"p{i}.npy" for i in range(count)]


def test_images_give_the_graphs_of_the_generator(finished, graphs, tmp_path):
    files = write_images(tmp_path / "images", graphs, 3)
    model = finished[1].model
    made = graphs_of_files(model.featuriser, files, tmp_path / "images")
    assert torch.allclose(model.predict(made), model.predict(graphs[:3]), rtol=1e-4)
    with pytest.raises(ValueError, match=r"p0.npy: .*lacking: log_conductivity.*--tables"):
        graphs_of_files(model.featuriser, files)
    with pytest.raises(ValueError, match="does not tell how its graphs are made"):
        graphs_of_files({}, files)
    images = Microstructures(
        files,
        tables=tmp_path / "images",
        angles={"log_conductivity": 360.0},
        ignore=(99,),
        log=False,
    )
    told = json.loads(json.dumps(featuriser_of(images)))
    assert told["node_names"][-2:] == ["cos_log_conductivity", "sin_log_conductivity"]
    assert torch.equal(graphs_of_files(told, files, tmp_path / "images")[0].x, images[0].x)


# ---- The command line

OPTIONS = "--epochs 2 --hidden-size 8 --layers 1 --heads 2 --max-nodes 60"
# years of work, were it begun before the other options are looked at
MANY = ("--dataset", "polycrystal", "--graphs", "100000000")


def test_train_graphs_on_polycrystals_and_predict(call, refused, graphs, tmp_path):
    generated = (
        "--dataset polycrystal --graphs 12 --grains 4,9 --resolution 12 --target-scaling log "
        "--operator gin --normalize sigmoid"
    )
    code, out, err = call(
        "train-graphs", "--output", tmp_path / "run", *generated.split(), *OPTIONS.split()
    )
    assert code == 0, err
    assert (
        "10 graphs to learn from, 1 to validate, 1 to test" in out
        and "test: MAE " in out
        and f"saved in {tmp_path / 'run'}" in out
    )
    code, again, _ = call(
        "train-graphs",
        "--output",
        tmp_path / "run",
        *generated.split(),
        *OPTIONS.split(),
        "--resume",
    )
    assert code == 0 and again.splitlines()[-3:] == out.splitlines()[-3:]

    files = write_images(tmp_path / "images", graphs, 2)
    code, out, err = call("predict", tmp_path / "run", *files, "--tables", tmp_path / "images")
    assert code == 0, err
    rows = list(csv.reader(out.splitlines()))
    assert rows[0] == ["file", "conductivity"] and [row[0] for row in rows[1:]] == [
        "p0.npy",
        "p1.npy",
    ]
    expected = load_graph_model(tmp_path / "run").predict(graphs[:2])
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(expected[:, 0].tolist(), rel=1e-3)
    table = tmp_path / "out.csv"
    code, _, _ = call(
        "predict", tmp_path / "run", *files, "--tables", tmp_path / "images", "--output", table
    )
    assert code == 0 and table.read_text() == out
    assert "is there already" in refused(
        call("predict", tmp_path / "run", *files, "--output", table)
    )
    assert "lacking: log_conductivity" in refused(call("predict", tmp_path / "run", *files))
    (tmp_path / "bad.npy").write_bytes(b"no image")
    assert "bad.npy cannot be read" in refused(
        call("predict", tmp_path / "run", tmp_path / "bad.npy")
    )


def test_train_graphs_on_images(call, refused, graphs, tmp_path):
    write_images(tmp_path / "images", graphs, 6)
    arguments = [
        "train-graphs",
        "--output",
        tmp_path / "run",
        "--dataset",
        tmp_path / "images",
        "--tables",
        tmp_path / "images",
    ]
    arguments += [*OPTIONS.split(), "--periodic", "--relative"]
    assert "--targets is needed with a folder of images" in refused(call(*arguments))
    code, _, err = call(*arguments, "--targets", tmp_path / "images/targets.csv")
    assert code == 0, err
    assert load_graph_model(tmp_path / "run").featuriser["target_names"] == ["conductivity"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--dataset", "nowhere"],
            "--dataset: there is no folder or file 'nowhere'; give polycrystal, a folder of label "
            "images",
        ),
        (
            ["--dataset", "polycrystal", "--grains", "few"],
            "--grains must be a number or two, as in 20,40, got 'few'",
        ),
        (
            ["--dataset", "polycrystal", "--held-out", "0.7"],
            "--held-out must be above 0 and below 0.5, got 0.7",
        ),
        (
            ["--dataset", "polycrystal", "--graphs", "2", "--grains", "3", "--resolution", "8"],
            "2 graphs are too few",
        ),
        (
            [*MANY, "--normalize", "tanh"],
            "relu, sigmoid, sigmoid_per_head",
        ),
        ([*MANY, "--operator", "gcn"], "unknown operator 'gcn'; known: gin, pna, sum"),
        ([*MANY, "--hidden-size", "65"], "--hidden-size 65 is not a multiple of --heads 4"),
    ],
)
def test_train_graphs_refuses(call, refused, tmp_path, options, message):
    assert message in refused(call("train-graphs", "--output", tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_predict_refuses_what_is_no_model(call, refused, tmp_path):
    assert "holds no complete model (there is no such folder)" in refused(
        call("predict", tmp_path / "none", "a.npy")
    )


def test_the_example_runs_from_images_to_a_picture(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["microstructure.py", "--graphs", "20", "--epochs", "1"])
    threads = torch.get_num_threads()
    runpy.run_path(
        str(ROOT / "examples/microstructure.py"),
        run_name="__main__",
    )
    torch.set_num_threads(threads)
    assert (tmp_path / "microstructure/refined.png").stat().st_size > 10_000
    assert re.search(r"new, 40 to 60 grains +-?\d+\.\d+ +-?\d+\.\d+", capfd.readouterr().out)
