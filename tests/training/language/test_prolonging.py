"""A run that is resumed with another number of steps."""

import json
import math
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.training.language.test_training import losses, make_model, run

pytestmark = pytest.mark.slow

NAMES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
FIXED = {"min_lr_ratio": 1.0, "warmup_steps": 3, "eval_steps": 7}


def prolong(folder, steps, **changes):
    return run(folder, make_model(dropout=0.2), steps=steps, resume=True, **changes)


def saved(folder):
    """The checkpoints' files, byte for byte."""
    return {
        (path.parent.name, path.name): path.read_bytes()
        for path in Path(folder).glob("checkpoint-*/*")
        if path.name in NAMES
    }


def rates(result):
    return {line["step"]: line["learning_rate"] for line in result.history if "loss" in line}


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished run, whose dropout makes the random state count."""
    return run(tmp_path_factory.mktemp("short") / "run", make_model(dropout=0.2), **FIXED)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same with 33 steps from the start."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(folder, make_model(dropout=0.2), steps=33, **FIXED)


@pytest.fixture
def folder(short, tmp_path):
    return Path(shutil.copytree(short.output_dir, tmp_path / "copy"))


def test_with_a_constant_rate_a_prolonged_run_is_the_longer_one(short, whole, folder):
    before = saved(folder)
    result = prolong(folder, 33, **FIXED)
    after = saved(folder)
    assert len(before) == 16 and before.items() <= after.items()  # steps 6, 12, 18 and 20
    assert result.resumed_from == 20 and result.steps == 33 and same(result.model, whole.model)
    assert result.evaluation == whole.evaluation
    # the first run's end, which the longer run does not have, beside what both have
    ours = losses(result)
    extra = [line for line in ours if line["step"] == 20 and "eval_loss" in line]
    assert [line for line in ours if line not in extra] == losses(whole) and len(extra) == 1
    for step in (24, 30, 33):
        a, b = (Path(one.output_dir, f"checkpoint-{step}") for one in (result, whole))
        assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    stored = json.loads((folder / "run.json").read_text())
    assert stored["steps"] == 33 and stored["warmup_steps"] == 3


def test_the_cosine_is_drawn_anew_from_the_step_reached(tmp_path, capfd):
    options = {"save_steps": 5, "eval_steps": 10, "learning_rate": 0.01}
    run(tmp_path / "run", make_model(), **options)
    result = run(tmp_path / "run", make_model(), steps=40, resume=True, progress=True, **options)

    def rate(step, steps, warmup=2):  # of the step that follows so many
        part = (step - warmup) / (steps - warmup)
        return 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))

    told = rates(result)
    assert list(told) == [*range(5, 45, 5)]
    for step, found in told.items():  # with which this step was made
        assert found == pytest.approx(rate(step - 1, 20 if step <= 20 else 40), rel=1e-6), step
    assert json.loads((tmp_path / "run/run.json").read_text())["warmup_steps"] == 2
    again = run(tmp_path / "run", make_model(), steps=40, resume=True, **options)
    assert again.steps == again.resumed_from == 40  # resumed as it is
    said = (
        "40 steps, planned were 20: the cosine of the learning rate is drawn anew over all of "
        f"them, and goes on at step 20 with {rate(20, 40):.3g} (it was 0.001)"
    )
    assert said in capfd.readouterr().out
    first = torch.load(tmp_path / "run/checkpoint-25/scheduler.pt", weights_only=True)
    assert first["_last_lr"][0] == pytest.approx(rate(25, 40), rel=1e-6)


def test_killed_while_it_is_prolonged(short, whole, folder, interpreters):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
        "import tests.training.language.test_training as t; "
        "t.KilledAt.left = 25; "  # of those that come after step 20: in step 29
        f"t.run(sys.argv[1], t.make_model(dropout=0.2), t.make_data(t.KilledAt), steps=33, "
        f"resume=True, **{FIXED!r})"
    )
    ended, _, err = interpreters(code, folder)
    assert ended == -signal.SIGKILL, err[-2000:]
    assert json.loads((folder / "run.json").read_text())["steps"] == 33
    assert not (folder / "checkpoint-33").exists()
    resumed = prolong(folder, 33, **FIXED)
    assert resumed.resumed_from == 24 and same(resumed.model, whole.model)
    assert resumed.evaluation == whole.evaluation


def test_a_run_may_end_earlier_but_not_behind_itself(folder, short):
    with pytest.raises(
        ValueError,
        match=r"^steps=18: the run was planned with steps=20 and has reached step 20; give more "
        r"to prolong it, or steps=20 to leave it as it is\.$",
    ):
        prolong(folder, 18, **FIXED)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001, now it is 0\.5"):
        prolong(folder, 33, learning_rate=0.5, **FIXED)
    assert json.loads((folder / "run.json").read_text())["steps"] == 20
    for step in (18, 20):
        shutil.rmtree(folder / f"checkpoint-{step}")
    ended = prolong(folder, 14, **FIXED)
    assert ended.resumed_from == 12 and ended.steps == 14
    assert json.loads((folder / "run.json").read_text())["steps"] == 14
