"""Each benchmark runs with --quick, prints its tables and leaves no result behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("GRAPHFORMER_DATA", ROOT.parent / "shared" / "data"))

pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")


def written(name: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in RESULTS.glob(f"{name}*")}


@pytest.mark.parametrize("call", ["aggregate", "attention", "decode", "finetune", "graph_cost", "graphs polycrystals", "slots"])
def test_quick(call):
    name, *words = call.split()
    before = written(name)
    command = [sys.executable, "-m", f"benchmarks.{name}", *words, "--quick"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| --- |" in done.stdout
    assert written(name) == before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_peak_memory_sees_what_a_step_frees_again():
    import torch

    from benchmarks import measure

    found, _ = measure.peak_memory(lambda: torch.ones(2**23).sum().item())
    assert 31 * 2**20 < found < 40 * 2**20


def test_slope_is_the_exponent():
    from benchmarks import measure

    assert measure.slope([2, 3, 5], [7 * n**1.5 for n in (2, 3, 5)]) == pytest.approx(1.5)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
@pytest.mark.parametrize("name", ["polymer-dft-ei", "mechanical-mnist", "brec"])
def test_quick_studies_of_real_data(name, tmp_path):
    command = [sys.executable, "-m", "benchmarks.graphs", name, "--quick", "--models", "gin", "gps"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRAPHFORMER_DATA": str(DATA), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| ours, GIN" in done.stdout and "| GPSConv (PyG)" in done.stdout


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
    other = study.run(replace(one, ours={"readout": ("mean",)}), ["gine", "gin"], [0], False, tmp_path)["runs"]
    assert [run["model"] for run in other] == ["gine", "gin"] and other[0] == first["runs"][0]
    assert other[1]["settings"]["network"]["readout"] == ["mean"]
    assert "| ours, GIN |" in study.table(one, study.run(one, ["gin"], [0, 1], False, tmp_path))

    def deep(layers):
        more = {"sum-flat": partial(gf.GraphTransformer, operator="sum", **{**one.network, "num_layers": layers})}
        return study.run(replace(one, more=more), ["sum-flat"], [0], False, tmp_path)["runs"][-1]

    assert deep(1) == deep(1) and deep(2)["parameters"] > deep(1)["parameters"]
