"""Runs that are killed, or meet a full disk, at any call that changes the disk: resumed, they end
as if nothing had happened.

The calls are those of libc, so that those of torch (C++), safetensors and tokenizers (Rust) are
among them; see crashes/faulty_disk.c.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CRASHES = ROOT / "tests/training/crashes"
TEXT = (
    "train WORDS --hidden-size 4 --layers 1 --heads 1 --intermediate-size 4 --context 15 --steps 4 "
    "--save-steps 1 --eval-steps 4"
)
GRAPHS = (
    "train-graphs --dataset polycrystal --graphs 6 --grains 3,4 --resolution 8 --epochs 3 "
    "--hidden-size 4 --layers 1 --heads 1 --max-nodes 60 --cache CACHE"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
    ),
]


@pytest.fixture(scope="module")
def faulty_disk(tmp_path_factory):
    library = tmp_path_factory.mktemp("disk") / "faulty_disk.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, CRASHES / "faulty_disk.c", "-ldl"],
        check=True,
    )
    return library


def broken_runs(faulty_disk, folder, command, first, every):
    (folder / "words.txt").write_text(
        "the cat sat on the mat, the dog sat on the log; and the bird sang. " * 5
    )
    arguments = (
        command.replace("WORDS", str(folder / "words.txt"))
        .replace("CACHE", str(folder / "cache"))
        .split()
    )
    alone = {
        "LD_PRELOAD": str(faulty_disk),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [
            sys.executable,
            CRASHES / "points.py",
            folder,
            str(first),
            str(every),
            *arguments,
        ],
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    ("command", "first", "every"),
    [
        pytest.param(TEXT, 20, 97, id="text"),
        pytest.param(GRAPHS, 10, 71, id="graphs"),
        pytest.param(TEXT, 0, 3, id="text, every third call", marks=pytest.mark.long),
        pytest.param(GRAPHS, 0, 2, id="graphs, every second call", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(7200)
def test_a_run_broken_at_a_call_that_changes_the_disk_resumes_bit_for_bit(
    faulty_disk, tmp_path, command, first, every
):
    counted, *runs, cost = broken_runs(faulty_disk, tmp_path, command, first, every)
    assert cost["seconds"] > 0
    assert counted["calls"] > 150 and len(runs) == 2 * len(
        range(1 + first, counted["calls"] + 1, every)
    )
    for one in runs:
        assert one["resumed"] == 0 and one["equal"], one
        assert not one["leftovers"], one
        assert "Traceback" not in one["log"] + one["told"], one
        if one["mode"] == "kill":
            assert one["ended"] == -9
        elif one["ended"]:  # a full disk is told in a line; it is none to calls that need no room
            lines = [line for line in one["log"].splitlines() if line.startswith("error: ")]
            assert one["ended"] == 2 and len(lines) == 1, one
            # torch's own writer tells only that its stream failed
            assert "No space left on device" in lines[0] or "could not be written" in lines[0], one
    assert {one["ended"] for one in runs} >= {-9, 2}
    if every < 10:  # with one checkpoint, with two, ... and with none
        assert {len(one["saved"]) for one in runs} >= {0, 1, 2}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 600 kB, where the system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no right to mount a disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_run_on_a_disk_that_is_really_full_is_told_and_goes_on(call, tmp_path, small_disk):
    (tmp_path / "words.txt").write_text("the cat sat on the mat, the dog sat on the log. " * 8)
    arguments = TEXT.replace("WORDS", str(tmp_path / "words.txt")).split()
    assert call(*arguments, "--output", tmp_path / "whole")[0] == 0
    room = 600_000 - sum(
        path.stat().st_size for path in (tmp_path / "whole/checkpoint-4").iterdir()
    )
    # room for nothing, for less than a checkpoint, for some
    for filled in (599_000, room + 5_000, room - 40_000):
        (small_disk / "ballast").write_bytes(b"x" * filled)
        code, _, err = call(*arguments, "--output", small_disk / "run")
        told = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(told) == 1 and "Traceback" not in err, err
        assert "could not be written" in told[0] or "No space left" in told[0]
        (small_disk / "ballast").unlink()
        code, _, err = call(*arguments, "--output", small_disk / "run", "--resume")
        assert code == 0, err
        assert (small_disk / "run/model.safetensors").read_bytes() == (
            tmp_path / "whole/model.safetensors"
        ).read_bytes()
        shutil.rmtree(small_disk / "run")
