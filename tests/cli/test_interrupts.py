"""Control-C, as the operating system sends it: one line that says what is kept and how to go on,
exit code 130, and what is said is true.
"""

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("typer")

WORDS = "".join(f"Once upon a time there were {n} wolves.\n" for n in range(60))
TEXT = "--hidden-size 12 --layers 1 --heads 3 --context 13 --steps 5 --eval-steps 2 --save-steps 2"
GRAPHS = "--graphs 12 --grains 4,6 --resolution 10 --hidden-size 8 --layers 1 --heads 2 --epochs 3"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(WORDS)
    return path


@pytest.fixture
def control_c():
    """Sends SIGINT to this process at the n-th call of a method, while the block runs."""
    # Test processes side by side ignore the signal, which a terminal would send to all of them.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def at(owner, name, number):
        real, calls = getattr(owner, name), iter(range(1, number))

        def called(*args, **kwargs):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGINT)
            return real(*args, **kwargs)

        patch = pytest.MonkeyPatch.context()
        monkey = patch.__enter__()
        monkey.setattr(owner, name, called)
        return lambda: patch.__exit__(None, None, None)

    yield at
    signal.signal(signal.SIGINT, former)


def told(result):
    code, _, err = result
    assert code == 130 and "Traceback" not in err, err
    line = err.splitlines()[-1]
    assert line.startswith("interrupted: ") and line.endswith("."), err
    return line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "train-graphs", "finetune"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_run(call, control_c, words, tmp_path, command, saved):
    from graphformer.training.resumable import ResumableTrainer

    run, first = tmp_path / "run", 1
    if command == "train":
        arguments = ["train", words, *TEXT.split()]
        first = 2
    elif command == "train-graphs":
        arguments = ["train-graphs", "--dataset", "polycrystal", *GRAPHS.split()]
    else:
        pytest.importorskip("peft")
        assert call("train", words, "--output", tmp_path / "base", *TEXT.split())[0] == 0
        few = "--context 13 --steps 5 --eval-steps 2 --save-steps 2"
        arguments = ["finetune", tmp_path / "base", words, "--rank", "2", *few.split()]
        first = 2
    undo = control_c(ResumableTrainer, "training_step", first + 1 if saved else 1)
    try:
        line = told(call(*arguments, "--output", run))
    finally:
        undo()
    found = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    if saved:
        assert found == [first]
        assert f"the checkpoint of step {first} is kept in {str(run)!r}; go on with" in line
        assert "--resume" in line
        again = call(command, "--output", run, "--resume")
        if command == "finetune":  # its arguments are no options
            again = call(*arguments, "--output", run, "--resume")
    else:
        assert not found and f"nothing is saved in {str(run)!r} yet; the same command" in line
        again = call(*arguments, "--output", run)
    assert again[0] == 0, again[2]
    assert (run / "metrics.json").is_file()


@pytest.mark.slow
def test_a_run_that_is_prolonged(call, control_c, words, tmp_path):
    from graphformer.training.resumable import ResumableTrainer

    run = tmp_path / "run"
    assert call("train", words, "--output", run, *TEXT.split())[0] == 0
    undo = control_c(ResumableTrainer, "training_step", 2)
    try:
        line = told(call("train", "--output", run, "--resume", "--steps", "9"))
    finally:
        undo()
    assert "the checkpoint of step 6 is kept" in line or "the checkpoint of step 5 is kept" in line
    code, _, err = call("train", "--output", run, "--resume")  # the new length is stored
    assert code == 0, err
    assert '"steps": 9' in (run / "metrics.json").read_text()


@pytest.mark.slow
def test_demo(call, control_c, tmp_path):
    from graphformer.inspect.value import ModelGraphs
    from graphformer.training.resumable import ResumableTrainer

    folder = tmp_path / "demo"
    undo = control_c(ResumableTrainer, "training_step", 2)
    try:
        line = told(call("demo", "--output", folder, "--steps", "3"))
    finally:
        undo()
    assert f"{str(folder)!r} may be incomplete; remove what is there, and the same" in line
    assert "--resume" not in line  # it has none
    undo = control_c(ModelGraphs, "report", 1)  # after the training
    try:
        line = told(call("demo", "--output", folder, "--steps", "3"))
    finally:
        undo()
    assert f"{str(folder)!r} may be incomplete; remove" in line
    assert not (folder / "graphs.html").exists()


@pytest.mark.slow
def test_commands_that_write_nothing_on_the_way(call, control_c, words, tmp_path):
    import graphformer.nn as nn
    from graphformer.inspect.value import ModelGraphs
    from graphformer.models.language.model import GraphformerForCausalLM

    assert call("train", words, "--output", tmp_path / "m", *TEXT.split())[0] == 0
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    small = ["--length", "8", "--hidden-size", "16", "--heads", "2", "--repetitions", "1"]
    for owner, name, arguments in (
        (nn.GINAttention, "forward", ["bench", *small]),
        (GraphformerForCausalLM, "forward", ["generate", tmp_path / "m", "Once"]),
        (
            GraphformerForCausalLM,
            "forward",
            ["evaluate", tmp_path / "m", words, "--output", figures],
        ),
        (
            ModelGraphs,
            "report",
            ["inspect", tmp_path / "m", "--text", "Once", "--output", page],
        ),
    ):
        undo = control_c(owner, name, 1)
        try:
            line = told(call(*arguments))
        finally:
            undo()
        assert line == "interrupted: nothing is written; the same command starts again."
    assert not page.exists() and not figures.exists()


@pytest.mark.slow
def test_predict(call, control_c, tmp_path):
    pytest.importorskip("matplotlib")
    from graphformer.inspect import pictures

    run = tmp_path / "run"
    dataset = ["train-graphs", "--dataset", "polycrystal", *GRAPHS.split()]
    assert call(*dataset, "--output", run)[0] == 0
    import numpy as np

    np.save(tmp_path / "a.npy", np.repeat(np.repeat([[0, 1], [2, 3]], 5, 0), 5, 1))
    (tmp_path / "tables").mkdir()
    grains = "".join(f"{label},{label}.5\n" for label in range(4))
    (tmp_path / "tables/a.csv").write_text(f"label,log_conductivity\n{grains}")
    folder = tmp_path / "plots"
    arguments = ["predict", run, tmp_path / "a.npy", "--tables", tmp_path / "tables"]
    arguments += ["--plot", folder]
    code, _, err = call(*arguments)
    assert code == 0, err
    for path in folder.iterdir():
        path.unlink()
    undo = control_c(pictures, "plot_grains", 1)
    try:
        line = told(call(*arguments, "--output", tmp_path / "out.csv"))
    finally:
        undo()
    assert "out.csv' may be incomplete; remove what is there" in line
    assert Path(tmp_path / "out.csv").is_file()
