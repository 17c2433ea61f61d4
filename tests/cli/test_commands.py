"""The commands for models of any origin, and what a run leaves in its folder."""

import csv
import json
import os
import subprocess
import sys

import pytest
import yaml

import graphformer as gf
from graphformer.cli import main
from graphformer.cli.app import COMMANDS
from tests.conftest import ROOT, _folder

pytest.importorskip("pandas")
pytest.importorskip("igraph")
WORDS = "Once upon a time there was a little cat. The cat sat on the mat. "


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(WORDS * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def llama():
    folder = _folder("GRAPHFORMER_MODELS", ROOT.parent / "shared" / "models") / "stories260K"
    if not folder.is_dir():
        pytest.skip("stories260K is not here")
    return folder


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def refused(call, arguments, text):
    code, out, err = call(*arguments)
    assert code == 2 and not out
    assert err.count("\n") == 1 and err.startswith("error: ") and text in err, err


def test_help_and_a_typing_error_import_no_torch():
    for arguments, code in ((["--help"], 0), (["trian"], 2), (["--version"], 0)):
        watched = (
            "import sys; from graphformer.cli import main\n"
            f"try: main({arguments!r})\n"
            "except SystemExit as end: code = end.code\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
            "sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", watched], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr


def test_the_list_of_commands_is_theirs(call):
    code, out, _ = call("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = call(name, "--help")
        assert code == 0 and f"graphformer {name}" in out
    code, _, err = call("trian")
    assert code == 2 and "did you mean 'train'?" in err
    assert call("--version")[1] == f"graphformer {gf.__version__}\n"


def test_doctor(call):
    code, out, _ = call("doctor")
    assert code == 0 and "self-test: all executors" in out and "torch " in out
    assert "self-test" not in call("doctor", "--no-test")[1]


def test_doctor_says_what_is_wrong(call, monkeypatch):
    from graphformer.cli import doctor

    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(doctor, "self_test", lambda device: ["backend pyg"])
    code, out, err = call("doctor")
    assert code == 2 and "the self-test failed: backend pyg on cpu" in err
    assert "missing matplotlib, networkx, pandas, igraph: pip install 'graphformer[viz]'" in out


def test_inspect(call, llama, words, tmp_path):
    text = ["--text", "Once upon a time there was a cat"]
    for name, more in (
        ("page.html", ["--ablation", *text]),
        ("edges.csv", text),
        ("measures.csv", ["--measures", "--file", str(words), "--max-tokens", "40"]),
        ("graphs.safetensors", ["--layers", "1,3", *text]),
        ("head.png", ["--layers", "2", "--heads", "3", *text]),
    ):
        code, out, err = call("inspect", str(llama), "-o", str(tmp_path / name), *more)
        assert code == 0, err
        assert f"saved in {tmp_path / name}" in out
    edges = table(tmp_path / "edges.csv")
    assert {row["layer"] for row in edges} == set("01234")
    assert all(float(row["weight"]) > 0.02 for row in edges)
    measures = table(tmp_path / "measures.csv")
    assert len(measures) == 40 and "induction" in measures[0] and "entropy" in measures[0]
    assert len(gf.inspect.ModelGraphs.load(tmp_path / "graphs.safetensors")) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "--text or a file"),
        ("--text a --file b", "not both"),
        ("--text a -o x.pdx", "ends in none of .html"),
        ("--text a --measures", "--measures has no effect"),
        ("--text a -o x.csv --ablation", "--ablation has no effect"),
        ("--text a --max-tokens 3", "--max-tokens has no effect"),
        ("--text a -o nowhere/x.html", "its folder does not exist"),
        ("--text a --layers one", "--layers must be whole numbers"),
        ("--text a --layers 9", "the pass had 5 layers"),
        ("--text a --heads 9", "has 8 heads"),
        ("--text a -o x.png", "a picture of one head"),
        ("--file none.txt", "none.txt"),
    ],
)
def test_inspect_refuses(call, llama, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    given = arguments.split()
    given += [] if "-o" in given else ["-o", "x.html"]
    refused(call, ["inspect", str(llama), *given], text)
    assert os.listdir(tmp_path) == []


def test_models_that_are_none_are_refused(call, tmp_path, words):
    refused(call, ["inspect", "none", "-o", "x.html", "--text", "a"], "'none' is no folder")
    refused(call, ["evaluate", str(tmp_path), str(words)], str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "far/away"}')
    refused(call, ["evaluate", str(tmp_path), str(words)], "which is no folder here")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bottlenecks", "sparse-gin"])
def test_finetune_evaluate_generate(call, llama, words, tmp_path, method):
    folder = tmp_path / "adapter"
    options = "--context 32 --steps 12 --eval-steps 6 --save-steps 6 --batch-size 2"
    run = ["finetune", llama, words, "--output", folder, "--method", method]
    code, out, err = call(*run, *options.split())
    assert code == 0, err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["validation_loss_nats_per_token"] < metrics["loss_before"]
    assert f"{metrics['loss_before']:.4f}" in out
    told = yaml.safe_load((folder / "command.yaml").read_text())
    assert told["command"] == "finetune" and told["options"]["method"] == method
    assert (folder / "README.md").read_text().count("|") > 10
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 2
    figures, found = tmp_path / "figures.json", []
    for model in (llama, folder):
        call("evaluate", model, words, "--context", "32", "--output", figures)
        found.append(json.loads(figures.read_text())["loss_nats_per_token"])
    assert found[1] < found[0]
    code, out, _ = call("generate", folder, "Once upon", "--max-new-tokens", "5", "--greedy")
    assert code == 0 and "Once upon" in out
    code, out, _ = call("finetune", "--output", folder, "--resume")
    assert code == 0 and f"{metrics['validation_loss_nats_per_token']:.4f}" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--method gin", "unknown --method 'gin'"),
        ("--hidden-dim 3", "--hidden-dim has no effect"),
        ("--method sparse-gin --rank 3", "--rank has no effect"),
        ("--method bottlenecks --threshold 0.3", "--threshold has no effect"),
        ("--learning-rate 0", "--learning-rate must be above 0"),
        ("--context 100000", "reads at most"),
    ],
)
def test_finetune_refuses(call, llama, words, tmp_path, arguments, text):
    run = ["finetune", str(llama), str(words), "--output", str(tmp_path / "run")]
    refused(call, [*run, *arguments.split()], text)


@pytest.mark.slow
def test_a_run_is_run_again_from_its_file(call, words, tmp_path):
    small = "--hidden-size 12 --layers 1 --heads 3 --context 13 --steps 6 --eval-steps 6"
    first = ["train", str(words), "--output", str(tmp_path / "a"), *small.split()]
    assert call(*first)[0] == 0
    file = tmp_path / "a" / "command.yaml"
    code, _, err = call("train", "--config", str(file), "--output", str(tmp_path / "b"))
    assert code == 0, err
    same = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab"]
    assert same[0] == same[1]
    code, _, err = call("train", "--config", str(file), "--output", str(tmp_path / "c"), "--seed=3")
    assert code == 0, err
    other = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert other != same[0]
    run = ["train", "--output", str(tmp_path / "d")]
    refused(call, [*run, "--config", "none.yaml"], "'none.yaml' is no file")
    told = yaml.safe_load(file.read_text())
    for change, text in (
        ({"command": "finetune"}, "is of graphformer finetune, not of train"),
        ({"options": {"hiden_size": 3}}, "unknown option 'hiden_size'; did you mean 'hidden_size'"),
        ({"options": 3}, "cannot be read"),
    ):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump({**told, **change}))
        refused(call, [*run, "--config", str(tmp_path / "x.yaml")], text)
    (tmp_path / "x.yaml").write_text("a: [")
    refused(call, [*run, "--config", str(tmp_path / "x.yaml")], "cannot be read")


@pytest.mark.slow
def test_a_run_that_failed_at_once_does_not_block_its_folder(call, words, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "command.yaml").write_text("command: train\noptions: {}\n")
    small = "--hidden-size 12 --layers 1 --heads 3 --context 13 --steps 2 --eval-steps 2"
    assert call("train", str(words), "--output", str(folder), *small.split())[0] == 0


@pytest.mark.slow
def test_train_graphs_keeps_what_it_held_out(call, tmp_path):
    folder = tmp_path / "run"
    options = ["--dataset", "polycrystal", "--graphs", "30", "--epochs", "1"]
    code, _, err = call("train-graphs", "--output", str(folder), *options)
    assert code == 0, err
    rows = table(folder / "predictions.csv")
    assert len(rows) == 3 and set(rows[0]) == {"y", "y_predicted"}
    metrics = json.loads((folder / "metrics.json").read_text())
    error = sum(abs(float(r["y"]) - float(r["y_predicted"])) for r in rows) / 3
    assert metrics["mae"] == pytest.approx(error, rel=1e-4)


@pytest.mark.slow
def test_demo_and_bench(call, tmp_path):
    code, out, err = call("demo", "--output", tmp_path / "demo", "--steps", "3")
    assert code == 0, err
    assert (tmp_path / "demo" / "graphs.html").stat().st_size > 10_000 and "perplexity" in out
    assert "is not empty" in call("demo", "--output", tmp_path / "demo")[2]
    sizes = "--length 16 --hidden-size 16 --heads 2 --repetitions 1"
    code, out, err = call("bench", *sizes.split())
    assert code == 0 and out.count("x plain") == 5, err
    assert "not a multiple" in call("bench", "--hidden-size", "10", "--heads", "4")[2]
    assert "cannot be used" in call("bench", "--device", "cuda:99")[2]


@pytest.mark.slow
def test_quiet_prints_results_alone(call, llama, words, tmp_path):
    small = "--hidden-size 12 --layers 1 --heads 3 --context 13 --steps 2 --eval-steps 2"
    run = ["train", words, "--output", tmp_path / "run", *small.split()]
    assert call("--quiet", *run) == (0, "", "")
    code, out, _ = call("-q", "generate", tmp_path / "run", "Once", "--max-new-tokens", "3")
    assert code == 0 and out.startswith("Once")
    refused(call, ["--quiet", "train", words, "--output", tmp_path / "run"], "is not empty")
    assert "perplexity" in call("-q", "evaluate", llama, words, "--context", "32")[1]


def test_main_ends_with_an_exit_code():
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
