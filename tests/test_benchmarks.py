"""Each benchmark runs with --quick, prints its tables and leaves no result behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")


def written(name: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in RESULTS.glob(f"{name}*")}


@pytest.mark.parametrize("name", ["aggregate", "attention", "decode", "finetune", "graph_cost"])
def test_quick(name):
    before = written(name)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
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
