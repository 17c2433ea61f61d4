"""Each benchmark runs with --quick, prints its tables and leaves no result behind."""

import gc
import json
import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("GRAPHFORMER_DATA", ROOT.parent / "shared" / "data"))

pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")


def written(name: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in RESULTS.glob(f"{name}*")}


@pytest.fixture
def run(monkeypatch, capsys):
    """``python -m benchmarks.<words>`` in this process, which has imported already what they all
    import: what it prints.
    """

    import transformers

    def start(name, *words):
        monkeypatch.setattr("sys.argv", [name, *words])
        verbosity = transformers.logging.get_verbosity()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "'benchmarks.*' found in sys.modules", RuntimeWarning
                )
                runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        finally:
            gc.unfreeze()  # frozen for the measurements
            transformers.logging.set_verbosity(verbosity)
            transformers.logging.enable_progress_bar()
        return capsys.readouterr().out

    return start


@pytest.mark.parametrize(
    "call",
    [
        "aggregate",
        "attention",
        "circuits",
        "decode",
        "finetune",
        "graph_cost",
        "hierarchy",
        "inspecting",
        "long_texts",
        "methods",
        "relations",
        "sharing",
        "graphs polycrystals",
        "slots",
        "nodes cora tolokers --repeats 1",
        "paper",
    ],
)
def test_quick(run, call):
    name, *words = call.split()
    before = written(name)
    assert "| --- |" in run(name, *words, "--quick")
    assert written(name) == before


@pytest.mark.parametrize("call", ["aggregate", "against HEAD --only decode graph_cost"])
def test_a_benchmark_is_a_command(tmp_path, call):
    """In a process of its own, from another folder. Two revisions in one process, as ``against``
    has them, would leave transformers with the attention functions of both.
    """
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    if call.startswith("against") and subprocess.run(git, capture_output=True).returncode:
        pytest.skip("no history here to compare with")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    name, *words = call.split()
    command = [sys.executable, "-m", f"benchmarks.{name}", *words, "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| --- |" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)
def test_peak_memory_sees_what_a_step_frees_again():
    """In a process of its own, as where it is used: one that has freed much takes a block again
    from what malloc keeps, and its resident set does not grow.
    """
    from benchmarks import measure

    step = "import torch; from benchmarks import measure"
    step += "; measure.answer(lambda: torch.ones(2**25).sum().item())"
    found = measure.child([sys.executable, "-c", step])["bytes"]
    assert 127 * 2**20 < found < 140 * 2**20


def test_a_child_that_ends_with_an_error_is_named():
    from benchmarks import measure

    command = [sys.executable, "-c", "raise SystemExit('no such case')"]
    with pytest.raises(RuntimeError, match=r"SystemExit.* ended with 1:\nno such case"):
        measure.child(command)


def test_language_runs_of_another_process_stay_and_are_compared(tmp_path):
    from benchmarks import language

    settings, target = {"steps": 1}, tmp_path / "language.json"

    def runs(name, losses):
        held = language.stored(settings, target)  # read before the other process has written
        for seed, loss in enumerate(losses):
            one = {"seed": seed, "validation_loss": loss, "parameters": 5}
            held = language.keep(held, name, one, {"machine": name}, target)

    before = language.stored(settings, target)
    runs("sum", [2.0, 2.5])
    one = {"seed": 0, "validation_loss": 1.5, "parameters": 5}
    found = language.keep(before, "gin", one, {"machine": "sum"}, target)
    assert found == language.stored(settings, target)
    assert [entry["machine"] for entry in found["environments"]] == ["sum"]
    table = language.summary(found["runs"], ["gin"])
    assert "| gin | 5 | 1 | 1.5000 |  | -0.5000 |" in table and "| sum |" not in table
    with pytest.raises(SystemExit, match=r"language\.json holds .*steps 1, not 2.*--results"):
        language.stored({"steps": 2}, target)
    assert found == language.stored(settings, target)  # nothing is lost


def test_runs_of_other_settings_are_not_written_over(tmp_path):
    from benchmarks.finetune import study

    def content(steps):
        return {"settings": {"text": "gsm8k", "steps": steps}, "untrained": {}, "grid": {}} | {
            "runs": {"lora": [{"rate": 1.0, "seed": 0, "loss": steps}]}
        }

    study.keep(content(400), "finetune-gsm8k", tmp_path)
    with pytest.raises(SystemExit, match=r"finetune-gsm8k\.json holds .*steps 400, not 10.*move"):
        study.keep(content(10), "finetune-gsm8k", tmp_path)
    stored = json.loads((tmp_path / "finetune-gsm8k.json").read_text())
    assert stored["runs"] == content(400)["runs"]


def test_slope_is_the_exponent():
    from benchmarks import measure

    assert measure.slope([2, 3, 5], [7 * n**1.5 for n in (2, 3, 5)]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("losses", "tried"),
    [
        ((5, 4, 3, 4, 5), [2, 1, 3]),
        ((1, 2, 3, 4, 5), [2, 1, 0]),
        ((5, 4, 3, 2, 1), [2, 1, 3, 4]),
    ],
)
def test_rates_are_tried_until_the_best_lies_between_two(losses, tried):
    from benchmarks.finetune.study import untried

    grid, done = (0.1, 0.2, 0.3, 0.4, 0.5), []
    while (rate := untried(grid, done)) is not None:
        done.append({"rate": rate, "loss": losses[grid.index(rate)]})
    assert [grid.index(run["rate"]) for run in done] == tried


def test_a_fine_tuning_row_that_is_not_finished_says_so():
    from benchmarks.finetune.show import table
    from benchmarks.finetune.study import GRID

    def run(rate, loss, seed=0):
        return {"rate": rate, "loss": loss, "seed": seed, "trainable": 46_240}

    content = {
        "untrained": {"test": 5.0},
        "settings": {"grid": list(GRID)},
        "grid": {
            "lora": [run(rate, 2 + abs(rate - GRID[1])) for rate in GRID[:3]],
            "relations": [run(GRID[2], 2.0)],
        },
        "runs": {"lora": [run(GRID[1], 2.5), run(GRID[1], 2.3, 1)], "relations": [run(0.004, 2.1)]},
    }
    _, _, _, lora, relations = table(content).splitlines()
    assert "| 0.002 | 2 | 2.4000 ± 1.2706 |" in lora
    assert "0.004 (grid not finished) | 1 | 2.1000 |" in relations and "-0.4000 |" in relations


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
@pytest.mark.parametrize("name", ["polymer-dft-ei", "mechanical-mnist", "brec"])
def test_quick_studies_of_real_data(run, name, tmp_path, monkeypatch):
    from benchmarks.graphs import load

    monkeypatch.setenv("GRAPHFORMER_DATA", str(DATA))
    monkeypatch.setattr(load, "CACHE", tmp_path)
    out = run("graphs", name, "--quick", "--models", "gin", "gps")
    assert "| ours, GIN" in out and "| GPSConv (PyG)" in out


def test_a_stored_run_is_not_repeated_unless_its_settings_change(tmp_path):
    from dataclasses import replace
    from functools import partial

    import graphformer as gf
    from benchmarks.graphs import study
    from graphformer.datasets import PolycrystalDataset

    graphs = PolycrystalDataset(None, 6, (4, 6), resolution=8, log=False)
    one = study.Study(
        name="tiny",
        title="",
        parts=lambda repeat, quick: study.Parts(graphs, graphs, {"test": graphs}),
        network={"node_dim": 6, "edge_dim": 2, "hidden_size": 8, "num_layers": 1, "num_heads": 2},
        training={"epochs": 1, "max_nodes": 40},
        columns=("rmse",),
    )
    first = study.run(one, ["gine", "gin"], [0], False, tmp_path)
    again = study.run(one, ["gin", "gine"], [0], False, tmp_path)
    assert again["runs"] == first["runs"]
    other = study.run(
        replace(one, ours={"readout": ("mean",)}), ["gine", "gin"], [0], False, tmp_path
    )["runs"]
    assert [run["model"] for run in other] == ["gine", "gin"] and other[0] == first["runs"][0]
    assert other[1]["settings"]["network"]["readout"] == ["mean"]
    assert "| ours, GIN |" in study.table(one, study.run(one, ["gin"], [0, 1], False, tmp_path))

    def deep(layers):
        more = {
            "sum-flat": partial(
                gf.GraphTransformer, operator="sum", **{**one.network, "num_layers": layers}
            )
        }
        return study.run(replace(one, more=more), ["sum-flat"], [0], False, tmp_path)["runs"][-1]

    assert deep(1) == deep(1) and deep(2)["parameters"] > deep(1)["parameters"]


def tiny(tmp_path, monkeypatch):
    """The node study on small made graphs, stored in a folder of the test."""
    from dataclasses import replace

    from benchmarks.nodes import data, study

    small = {name: replace(one, **study.QUICK) for name, one in study.SETTINGS.items()}
    monkeypatch.setattr(study, "SETTINGS", small)
    monkeypatch.setattr(study, "load", lambda name, seed, quick: data.made(seed))
    return study, lambda *layers, seeds=range(2): study.run(
        ["cora"], list(layers), seeds, False, tmp_path
    )


def test_node_runs_are_kept_and_repeated_where_a_default_of_the_layer_changed(
    tmp_path, monkeypatch
):
    study, run = tiny(tmp_path, monkeypatch)
    first = run("GATConv", "SumAttentionConv")["runs"]
    assert [(one["layer"], one["seed"]) for one in first] == [
        (layer, seed) for seed in (0, 1) for layer in ("GATConv", "SumAttentionConv")
    ]
    assert run("GATConv", "SumAttentionConv", "GINAttentionConv")["runs"][:4] == first

    class Changed(study.LAYERS["SumAttentionConv"]):
        def __init__(self, *args, self_weight=2.0, **options):
            super().__init__(*args, self_weight=self_weight, **options)

    monkeypatch.setitem(study.LAYERS, "SumAttentionConv", Changed)
    again = {(one["layer"], one["seed"]): one for one in run("GATConv", "SumAttentionConv")["runs"]}
    for one in first:
        assert (again[one["layer"], one["seed"]] == one) == (one["layer"] == "GATConv")


def test_node_table_has_the_distance_to_the_better_peer_and_its_interval(tmp_path, monkeypatch):
    study, run = tiny(tmp_path, monkeypatch)
    content = run(*study.LAYERS)
    tests = {
        "GATConv": (0.5, 0.5),
        "TransformerConv": (0.74, 0.76),
        "SumAttentionConv": (0.7, 0.7),
        "GINAttentionConv": (0.798, 0.818),
    }
    for one in content["runs"]:
        one["test"] = tests[one["layer"]][one["seed"]]
    # Student's t of one degree of freedom is 12.706 at 97.5 %; differences -4 and -6, or equal
    row = (
        "| cora | accuracy | 2 | 50.00 ± 0.00 | 75.00 ± 1.41 | 70.00 ± 0.00 (-5.00 ± 12.71) | "
        "80.80 ± 1.41 (+5.80 ± 0.00) |"
    )
    found = study.table(content)
    assert row in found
    assert "above -0.5: GINAttentionConv on cora. Wholly below: none. The other 1 of 2" in found
    content["runs"][0]["settings"] = {
        **content["runs"][0]["settings"],
        "width": 1,
    }  # a run of an older script
    found = study.table(content)
    assert "| cora | accuracy | 1 | 50.00 | 76.00 | 70.00 (-6.00) | 81.80 (+5.80) |" in found
    assert "above -0.5: none. Wholly below: none. The other 2 of 2" in found
    content["runs"].pop()
    assert "cora" not in study.table(content)


def test_the_distance_is_paired_by_seed_and_to_the_better_peer():
    from scipy.stats import ttest_rel

    from benchmarks.nodes import study

    found = {
        "GATConv": [71.0, 73.5, 70.2, 74.1],
        "TransformerConv": [90.0, 10.0, 60.0, 70.0],
        "GINAttentionConv": [70.1, 73.9, 69.0, 73.2],
    }
    mean, half = study.ahead(found, "GINAttentionConv")
    asked = ttest_rel(found["GINAttentionConv"], found["GATConv"]).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((asked.low, asked.high))


def test_node_page_shows_what_is_stored():
    from benchmarks import report
    from benchmarks.nodes import __main__ as nodes
    from benchmarks.nodes import study

    page = nodes.PAGE.read_text()
    table = study.table(json.loads((RESULTS / "nodes.json").read_text()))
    assert report.filled(page, "nodes", {"": table}) == page and "| cora |" in page


def test_adapters_page_shows_what_is_stored():
    from benchmarks.finetune import docs

    page = docs.PAGE.read_text()
    assert docs.page() == page and "| LoRA, all linear layers | 46,240 |" in page


def test_runs_in_the_form_of_pefts_comparison(tmp_path):
    from benchmarks.finetune import peft_form

    content = json.loads((RESULTS / "finetune-gsm8k.json").read_text())
    written = peft_form.write("stories260K-gsm8k", content, tmp_path)
    runs = content["runs"]
    assert len(written) == sum(map(len, runs.values()))
    one = json.loads((tmp_path / "lora--stories260K-gsm8k-seed3.json").read_text())
    assert set(one) == {"run_info", "train_info", "meta_info"}
    run = next(run for run in runs["lora"] if run["seed"] == 3)
    assert one["run_info"]["train_config"]["optimizer_kwargs"]["lr"] == run["rate"]
    assert one["train_info"]["metrics"][-1] == {"step": 400, "test loss": run["loss"]}
    assert one["train_info"]["num_trainable_params"] == 46_240


def test_few_examples_are_drawn_by_the_seed():
    import torch

    from benchmarks.finetune.data import load

    task = load("gsm8k", context=32, examples=3, quick=True)
    first, again, other = (task.train_set(seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens) and len(first.tokens) == 3000
    assert not torch.equal(first.tokens, other.tokens)
    with pytest.raises(SystemExit, match="--examples 41: gsm8k has 40 to train on"):
        load("gsm8k", context=32, examples=41, quick=True)


@pytest.mark.parametrize("keep_best", [False, True])
def test_of_few_examples_the_best_weights_count(keep_best, monkeypatch):
    import torch
    import transformers

    from benchmarks.finetune import train
    from benchmarks.finetune.data import load
    from benchmarks.finetune.methods import wrap

    class Spoilt(train.Curve):
        """After the last look the weights are no longer those of the curve."""

        def look(self, step):
            super().look(step)
            if step == 8:
                with torch.no_grad():
                    for _, one in train.trained(self.model):
                        one.add_(1.0)

    monkeypatch.setattr(train, "Curve", Spoilt)
    task = load("gsm8k", context=32, examples=3, quick=True)
    transformers.set_seed(0)
    data = task.data | {"train": task.train_set(0), "validation": task.data["glimpse"]}
    model = wrap("lora", task.fresh(), 4)
    run = train.train(model, data, 1e-2, 0, 8, 2, "validation", keep_best)
    best = min(loss for _, loss in run["curve"])
    assert (run["loss"] == pytest.approx(best)) is keep_best


@pytest.mark.parametrize("limit", [None, 3])
def test_neighbourhood_of_two_layers(limit):
    import torch

    from benchmarks.nodes.data import Neighbourhood

    torch.manual_seed(0)
    edge_index = torch.randint(0, 53, (2, 400))
    nodes, hops = Neighbourhood(edge_index, 53, limit).hops(torch.tensor([7, 2]), 2)
    x = torch.rand(53, 5, dtype=torch.float64)
    h, whole = x[nodes], x
    for edges, read in hops:
        assert limit is None or torch.bincount(edges[1]).max() <= limit
        h = h.index_add(0, edges[1], h[edges[0]])[read]
        whole = whole.index_add(0, edge_index[1], whole[edge_index[0]])
    assert h.shape == (2, 5)
    if limit is None:
        torch.testing.assert_close(h, whole[[7, 2]])
    else:
        assert (h <= whole[[7, 2]] + 1e-9).all()
