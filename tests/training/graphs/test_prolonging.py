"""A run of graphs that is resumed with another number of epochs."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from graphformer.datasets import PolycrystalDataset
from tests.training.graphs.test_graph_training import SMALL, make_net, make_trainer, same_weights

pytestmark = pytest.mark.slow

FIXED = {"min_lr_ratio": 1.0, "warmup": 0.0}


class KilledAt(list):
    """Graphs; the operating system ends the process while it asks for the n-th of them."""

    left = -1

    def __getitem__(self, index):
        KilledAt.left -= 1
        if not KilledAt.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

    def split(self, lengths):
        return KilledAt(self[i] for i in range(lengths[0])), [
            self[i] for i in range(-lengths[1], 0)
        ]


@pytest.fixture(scope="module")
def graphs():
    made = PolycrystalDataset(None, 30, **SMALL)
    return KilledAt(made[i] for i in range(len(made)))


@pytest.fixture(scope="module")
def short(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    return folder, make_trainer(folder, graphs, epochs=3, **FIXED).fit()


@pytest.fixture(scope="module")
def whole(graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, make_trainer(folder, graphs, epochs=7, **FIXED).fit()


@pytest.fixture
def folder(short, tmp_path):
    return Path(shutil.copytree(short[0], tmp_path / "copy"))


def told(result):
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss")
    return [{k: v for k, v in line.items() if k in keys} for line in result.history[:-1]]


def saved(folder):
    names = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    return {
        (path.parent.name, path.name): path.read_bytes()
        for path in Path(folder).glob("checkpoint-*/*")
        if path.name in names
    }


def test_with_a_constant_rate_a_prolonged_run_is_the_longer_one(graphs, short, whole, folder):
    before = saved(folder)
    result = make_trainer(folder, graphs, epochs=7, **FIXED).fit(resume=True)
    after, longer = saved(folder), saved(whole[0])
    assert len(before) == 12 and before.items() <= after.items()
    assert result.resumed_from == short[1].steps and result.epochs == 7
    assert same_weights(result.model.net, whole[1].model.net)
    assert after.keys() == longer.keys() and len(after) == 28
    for name, content in longer.items():
        assert after[name] == content, name
    # the history goes on, and is told in epochs of the run
    assert told(result) == told(whole[1])
    assert [line["epoch"] for line in result.history if "eval_loss" in line] == [*range(1, 8)]
    assert json.loads((folder / "run.json").read_text())["epochs"] == 7


def test_the_cosine_is_drawn_anew_and_the_rise_is_kept(graphs, tmp_path):
    options = {"warmup": 0.2, "min_lr_ratio": 0.25}
    run = make_trainer(tmp_path / "run", graphs, epochs=3, **options).fit()
    rise = round(0.2 * run.steps)
    trainer = make_trainer(tmp_path / "run", graphs, epochs=8, **options)
    lines = []
    trainer.tell = lines.append
    result = trainer.fit(resume=True)

    def rate(step, steps):
        part = (step - rise) / (steps - rise)
        return 0.01 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * part)))

    found = {line["step"]: line["learning_rate"] for line in result.history if "loss" in line}
    assert len(found) == 8 and rise > 0
    for step, value in found.items():
        total = run.steps if step <= run.steps else result.steps
        assert value == pytest.approx(rate(step - 1, total), rel=1e-6), step
    assert lines == [
        f"{result.steps} steps, planned were {run.steps}: the cosine of the learning rate is drawn "
        f"anew over all of them, and goes on at step {run.steps} with "
        f"{rate(run.steps, result.steps):.3g} (it was 0.0025)"
    ]
    stored = json.loads((tmp_path / "run/run.json").read_text())
    assert stored["epochs"] == 8 and stored["warmup_steps"] == rise
    again = make_trainer(tmp_path / "run", graphs, epochs=8, **options).fit(resume=True)
    assert again.steps == result.steps  # resumed as it is
    again = make_trainer(tmp_path / "run", graphs, epochs=9, **options).fit(resume=True)
    assert again.epochs == 9  # the rise is still that of three epochs
    assert json.loads((tmp_path / "run/run.json").read_text())["warmup_steps"] == rise


def test_a_folder_without_the_rise_in_it_keeps_its_rise(graphs, tmp_path):
    run = make_trainer(tmp_path / "run", graphs, epochs=2, warmup=0.3).fit()
    path = tmp_path / "run/run.json"
    stored = json.loads(path.read_text())
    rise = stored.pop("warmup_steps")
    path.write_text(json.dumps(stored))  # as earlier versions wrote it
    make_trainer(tmp_path / "run", graphs, epochs=4, warmup=0.3).fit(resume=True)
    assert json.loads(path.read_text())["warmup_steps"] == rise == round(0.3 * run.steps)


def test_killed_while_it_is_prolonged(graphs, short, whole, folder, interpreters):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
        "import tests.training.graphs.test_prolonging as t; "
        "made = t.PolycrystalDataset(None, 30, **t.SMALL); "
        "graphs = t.KilledAt(made[i] for i in range(30)); "
        f"trainer = t.make_trainer(sys.argv[1], graphs, epochs=7, **{FIXED!r}); "
        "t.KilledAt.left = 60; "  # of 22 an epoch, in the third of the four that are added
        "trainer.fit(resume=True)"
    )
    ended, _, err = interpreters(code, folder)
    assert ended == -signal.SIGKILL, err[-2000:]
    assert json.loads((folder / "run.json").read_text())["epochs"] == 7
    result = make_trainer(folder, graphs, epochs=7, **FIXED).fit(resume=True)
    assert short[1].steps < result.resumed_from < result.steps
    assert same_weights(result.model.net, whole[1].model.net) and told(result) == told(whole[1])


def test_best_weights_and_early_stopping_go_on(graphs, tmp_path):
    options = {"patience": 3, "learning_rate": 0.05, **FIXED}
    whole = make_trainer(tmp_path / "whole", graphs, epochs=40, **options).fit()
    assert 4 < whole.epochs < 40
    # one epoch before early stopping: two of the three evaluations without gain are behind
    make_trainer(tmp_path / "run", graphs, epochs=whole.epochs - 1, **options).fit()
    result = make_trainer(tmp_path / "run", graphs, epochs=40, **options).fit(resume=True)
    assert result.epochs == whole.epochs and same_weights(result.model.net, whole.model.net)
    assert result.metrics == whole.metrics
    with pytest.raises(
        ValueError,
        match=rf"^epochs=50: early stopping \(patience=3\) has ended the run at step "
        rf"{result.steps}, not its epochs=40, so that more of them change nothing; start a new",
    ):
        make_trainer(tmp_path / "run", graphs, epochs=50, **options).fit(resume=True)
    assert json.loads((tmp_path / "run/run.json").read_text())["epochs"] == 40


def test_a_run_may_end_earlier_but_not_behind_itself(graphs, short, folder):
    with pytest.raises(
        ValueError,
        match=r"^epochs=2: the run was planned with epochs=3 and has reached step \d+, and "
        r"epochs=2 end at step \d+; give more to prolong it, or epochs=3 to leave it as it is\.$",
    ):
        make_trainer(folder, graphs, epochs=2, **FIXED).fit(resume=True)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01, now it is 0\.5"):
        make_trainer(folder, graphs, epochs=7, learning_rate=0.5, **FIXED).fit(resume=True)
    assert json.loads((folder / "run.json").read_text())["epochs"] == 3


@pytest.mark.parametrize("ratio", [-0.1, 1.5, math.nan])
def test_the_least_rate_is_a_part(graphs, tmp_path, ratio):
    with pytest.raises(ValueError, match=r"min_lr_ratio must be between 0 and 1, got .*; 0 is"):
        make_trainer(tmp_path, graphs, min_lr_ratio=ratio)


def test_no_least_rate_is_the_plain_cosine():
    """The formula that runs of earlier versions were made with."""
    from transformers import get_scheduler

    rates = []
    for name, own in (("cosine", {}), ("cosine_with_min_lr", {"min_lr_rate": 0.0})):
        optimizer = torch.optim.SGD(make_net().parameters(), lr=0.01)
        schedule = get_scheduler(name, optimizer, 3, 17, own)
        rates.append([])
        for _ in range(18):
            rates[-1].append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert rates[0] == rates[1] and rates[0][-1] == 0.0
