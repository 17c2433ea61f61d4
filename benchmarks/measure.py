"""Process CPU time of interleaved runs, and the peak memory of one step in a process of its own.

A *step* is a function without arguments: one forward, or one forward and backward. A benchmark
names its steps by plain values (section, contender, size), so that a child process can build the
same step again.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SHORTEST = 0.05
"""Seconds: shorter steps are repeated within one measurement until it takes this long."""

Step = Callable[[], Any]


def cpu_times(
    steps: dict[str, Step], repetitions: int = 5, shortest: float = SHORTEST
) -> dict[str, list[float]]:
    """CPU seconds of each step, ``repetitions`` rounds in which every step takes its turn; a
    warm-up round is not counted.
    """
    gc.collect()
    # what lives now is not looked at again: a collection before each measurement then costs little
    gc.freeze()
    rounds = {}
    for name, step in steps.items():
        spent = 1e-6
        for _ in range(2):  # the very first call of an operator may load or compile something
            if spent < shortest:
                start = time.process_time()
                step()
                spent = time.process_time() - start
        rounds[name] = max(1, math.ceil(shortest / spent))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            gc.collect()
            start = time.process_time()
            for _ in range(rounds[name]):
                step()
            found[name].append((time.process_time() - start) / rounds[name])
    return found


def resident_peak() -> int:
    """The largest resident set in bytes since it was reset (Linux)."""
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def peak_memory(step: Step) -> tuple[int | None, float]:
    """Bytes by which one step raises the resident set at most (``None`` where the system cannot
    tell), and its CPU seconds.
    """
    gc.collect()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    before = resident_peak() if reset.exists() else None
    start = time.process_time()
    step()
    spent = time.process_time() - start
    return (None if before is None else resident_peak() - before), spent


def in_children(module: str, cases: list[dict[str, Any]], together: int) -> list[dict[str, Any]]:
    """:func:`in_child` for each case, so many at a time: memory does not mind company, time
    does.
    """
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(partial(in_child, module), cases))


def in_child(module: str, case: dict[str, Any]) -> dict[str, Any]:
    """What ``python -m module --case <json>`` prints: its last line, as JSON."""
    return child([sys.executable, "-m", module, "--case", json.dumps(case)])


def child(command: list[str]) -> dict[str, Any]:
    """The last line that a command prints, as JSON. Freed memory goes back to the system at once
    there.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        ended = f"{' '.join(command)} ended with {done.returncode}"
        raise RuntimeError(f"{ended}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(step: Step, repetitions: int = 0) -> None:
    """The child's side, after a warm-up: peak memory of a step, and the CPU seconds of as many more
    (or of that one).
    """
    found, spent = peak_memory(step)
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    print(json.dumps({"bytes": found, "seconds": times or [spent]}))


def ratio(row: dict[str, Any], base: dict[str, Any], what: str) -> float | None:
    """How many times the baseline's median time (``"seconds"``) or its memory (``"bytes"``)."""
    a, b = row.get(what), base.get(what)
    if not a or not b:
        return None
    return statistics.median(a) / statistics.median(b) if isinstance(a, list) else a / b


def slope(sizes: list[float], values: list[float]) -> float:
    """The exponent: the slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:.3g} MiB" if value < 1000 * 2**20 else f"{value / 2**30:.2f} GiB"


def times_as_much(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}x" if value < 9.995 else f"{value:.3g}x"


def verdict(value: float | None, bound: float, at_least: bool = False) -> str:
    if value is None:
        return "not measured"
    return "reached" if (value >= bound if at_least else value <= bound) else "**missed**"
