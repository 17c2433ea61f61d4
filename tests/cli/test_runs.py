"""The folder of a run: what stands in it, and that a run in it is prolonged."""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("typer")

SMALL = [
    "--hidden-size",
    "12",
    "--layers",
    "2",
    "--heads",
    "3",
    "--context",
    "13",
    "--eval-steps",
    "3",
    "--save-steps",
    "3",
]
GRAPHS = [
    "--graphs",
    "20",
    "--grains",
    "4,7",
    "--resolution",
    "12",
    "--hidden-size",
    "8",
    "--layers",
    "2",
    "--heads",
    "2",
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(f"Once upon a time there were {n} wolves.\n" for n in range(60)))
    return path


def read(folder, name):
    return json.loads((Path(folder) / name).read_text())


def history(folder):
    keys = ("step", "epoch", "loss", "eval_loss", "learning_rate")
    return [
        {key: value for key, value in json.loads(line).items() if key in keys}
        for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()
    ]


def options(folder):
    return yaml.safe_load((Path(folder) / "command.yaml").read_text())["options"]


@pytest.mark.slow
def test_a_run_of_text_is_prolonged(call, refused, words, tmp_path):
    fixed = [*SMALL, "--min-lr-ratio", "1", "--warmup-steps", "2"]
    run = ["train", "--output", tmp_path / "run"]
    assert call(*run, words, "--steps", "6", *fixed)[0] == 0
    assert call("train", "--output", tmp_path / "whole", words, "--steps", 12, *fixed)[0] == 0
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    code, out, err = call(*run, "--resume", "--steps", "12")
    assert code == 0, err
    assert "12 steps, planned were 6: the cosine of the learning rate is drawn anew" in out
    # the checkpoint at which the run was prolonged, byte for byte; earlier ones go, as in any run
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth"):
        a, b = (tmp_path / run / "checkpoint-6" / name for run in ("run", "copy"))
        assert a.read_bytes() == b.read_bytes()
    a, b = (tmp_path / name / "model.safetensors" for name in ("run", "whole"))
    assert a.read_bytes() == b.read_bytes()
    assert history(tmp_path / "run")[:-1] == history(tmp_path / "whole")[:-1]
    assert read(tmp_path / "run", "metrics.json") == read(tmp_path / "whole", "metrics.json")
    numbers = [(tmp_path / name / "parameters.jsonl").read_text() for name in ("run", "whole")]
    # the first run's end is a line, which the longer one may not have
    assert set(numbers[1].splitlines()) <= set(numbers[0].splitlines())
    assert read(tmp_path / "run", "run.json")["steps"] == options(tmp_path / "run")["steps"] == 12
    lengths = yaml.safe_load((tmp_path / "run" / "command.yaml").read_text())["lengths"]
    assert [sorted(one) for one in lengths] == [["steps", "until"]] and lengths[0]["steps"] == 6
    # without the option, the stored length holds
    code, out, err = call(*run, "--resume")
    assert code == 0 and "planned" not in out, err
    assert read(tmp_path / "run", "metrics.json")["steps"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["--steps", "4"],
            "--steps=4: the run was planned with --steps=6 and has reached step 6; give",
        ),
        (["--steps", "9", "--learning-rate", "0.5"], "--learning-rate was 0.001, now it is 0.5"),
        (["--steps", "9", "--hidden-size", "24"], "model.hidden_size was 12, now it is 24"),
    ],
)
def test_a_refused_prolonging_changes_nothing(call, refused, words, tmp_path, more, told):
    run = ["train", "--output", tmp_path / "run"]
    assert call(*run, words, "--steps", "6", *SMALL)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code, _, err = call(*run, "--resume", *more)
    assert code == 2 and told in err and err.count("error: ") == err.count("\n") == 1
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    lock = tmp_path / "run" / ".lock"
    assert {**after, lock: b""} == {**before, lock: b""}


@pytest.mark.slow
def test_a_run_of_graphs_is_prolonged(call, tmp_path):
    run = ["train-graphs", "--dataset", "polycrystal", "--output", tmp_path / "run"]
    assert call(*run, *GRAPHS, "--epochs", "2")[0] == 0
    old = read(tmp_path / "run", "metrics.json")
    code, out, err = call("train-graphs", "--output", tmp_path / "run", "--resume", "--epochs", "5")
    assert code == 0, err
    assert f"planned were {old['steps']}: the cosine" in out
    assert read(tmp_path / "run", "run.json")["epochs"] == options(tmp_path / "run")["epochs"] == 5
    evaluated = [line["epoch"] for line in history(tmp_path / "run") if "eval_loss" in line]
    assert evaluated == [1, 2, 3, 4, 5] and read(tmp_path / "run", "metrics.json")["epochs"] == 5


@pytest.mark.slow
def test_the_folder_says_where_the_text_came_from_and_how_it_was_cut(call, words, tmp_path):
    assert call("train", words, "--output", tmp_path / "run", "--steps", "6", *SMALL)[0] == 0
    text = words.read_text()
    told = read(tmp_path / "run", "data.json")
    assert told["path"] == str(words) and told["kind"] == "text"
    assert told["sha256"] == hashlib.sha256(words.read_bytes()).hexdigest()
    first, second = told["parts"]["train"], told["parts"]["validation"]
    assert first["characters"][0] == 0 and second["characters"][1] == len(text)
    assert first["characters"][1] == second["characters"][0] == first["tokens"]
    metrics = read(tmp_path / "run", "metrics.json")
    assert second["tokens"] == metrics["validation_tokens"] + 1
    assert call("train", "--embedded", "--output", tmp_path / "b", "--steps", "3", *SMALL)[0] == 0
    assert "Python 3" in read(tmp_path / "b", "data.json")["embedded"]


@pytest.mark.slow
def test_the_folder_of_graphs_names_files_columns_and_parts(call, tmp_path):
    file = tmp_path / "polymers.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("psmiles", "gap", "note"))
        for n in range(1, 24):
            writer.writerow((f"*{'C' * n}O*", "" if n == 3 else 0.5 * n, "x"))
    run = ["train-graphs", "--dataset", file, "--smiles-column", "psmiles", "--target-columns"]
    small = [
        "--hidden-size",
        "8",
        "--layers",
        "1",
        "--heads",
        "2",
        "--epochs",
        "1",
        "--held-out",
        "0.2",
    ]
    code, _, err = call(*run, "gap", "--output", tmp_path / "run", *small)
    assert code == 0, err
    told = read(tmp_path / "run", "data.json")
    assert told["kind"] == "polymers"
    assert told["sha256"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert told["columns"] == {"polymer": "psmiles", "targets": ["gap"]}
    rows = list(csv.DictReader((tmp_path / "run" / "split.csv").read_text().splitlines()))
    counts = {part: sum(row["part"] == part for row in rows) for part in ("train", "validation")}
    assert counts == {"train": 14, "validation": 4} and len(rows) == 22
    # the one without a label is in no part, and the others are once
    assert [int(row["graph"]) for row in rows] == [n for n in range(23) if n != 2]
    names = {row["name"]: row["part"] for row in rows}
    test = [name for name, part in names.items() if part == "test"]
    predicted = csv.DictReader((tmp_path / "run" / "predictions.csv").read_text().splitlines())
    labels = [0.5 * int(name.removeprefix("row ")) for name in test]
    assert sorted(float(row["y"]) for row in predicted) == sorted(labels)


@pytest.mark.slow
def test_the_card_names_the_files_that_are_there(call, words, tmp_path):
    pytest.importorskip("matplotlib")
    assert call("train", words, "--output", tmp_path / "run", "--steps", "6", *SMALL)[0] == 0
    card = (tmp_path / "run" / "README.md").read_text()
    named = {line.split("`")[1] for line in card.splitlines() if line.startswith("- `")}
    own = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    of_transformers = {"config.json", "generation_config.json", "model.safetensors", "SHA256SUMS"}
    assert own - named == {"README.md", ".lock", *of_transformers} | {
        name for name in own if name.startswith("tokenizer")
    }
    assert named <= own and {"losses.png", "parameters.png"} <= named


def test_without_matplotlib_nothing_is_drawn_and_it_is_said(call, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = call("train", words, "--output", tmp_path / "run", "--steps", "3", *SMALL)
    assert code == 0, err
    for name in ("losses.png", "parameters.png"):
        assert f"{name} is not drawn: " in out and not (tmp_path / "run" / name).exists()
        assert name not in (tmp_path / "run" / "README.md").read_text()


def test_plain_attention_has_no_numbers_to_draw(call, words, tmp_path):
    plain = ["--operator", "sum", "--steps", "3", *SMALL]
    assert call("train", words, "--output", tmp_path / "run", *plain)[0] == 0
    assert not list((tmp_path / "run").glob("parameters*"))


def test_a_run_that_was_refused_leaves_no_folder(call, words, tmp_path):
    code, _, err = call("train", words, "--output", tmp_path / "run", "--warmup-steps", "9999")
    assert code == 2 and "--warmup-steps must be" in err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_lengths_are_told(call, words, tmp_path):
    """A digit that a disk has changed does not prolong a run."""
    run = ["train", "--output", tmp_path / "run"]
    assert call(*run, words, "--steps", "6", *SMALL)[0] == 0
    for name, old, new in (("command.yaml", "steps: 6", "steps: 96"), ("run.json", ": 6", ": 96")):
        path = tmp_path / "run" / name
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        code, _, err = call(*run, "--resume")
        assert code == 2 and "say with --steps how long the run is" in err, err
        path.write_text(text)
    assert call(*run, "--resume")[0] == 0
