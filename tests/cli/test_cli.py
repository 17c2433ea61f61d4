"""The command line, in this process and under torchrun."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import graphformer as gf
from graphformer.cli import main
from graphformer.datasets import TextDataset, encode, read_text, split
from graphformer.training import evaluate
from tests.conftest import ROOT

SMALL = (
    "--hidden-size 12 --layers 2 --heads 3 --intermediate-size 20 --context 13 --steps 12 "
    "--save-steps 6 --eval-steps 6"
)
WORDS = "the cat sat on the mat, the dog sat on the log;  and\n\nthe bird sang: é! "


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(WORDS * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    with pytest.raises(SystemExit) as end:
        main(
            ["train", str(text_file), "--output", str(folder), *SMALL.split(), "--batch-size", "6"]
        )
    assert end.value.code == 0
    return folder


def one_line(result):
    code, out, err = result
    assert code == 2 and not out
    lines = [line for line in err.splitlines() if "it/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [["--embedded"], ["--tokenizer", "bpe", "--vocab-size", "300", "--embedded"]]
)
def test_train_tells_how_it_went(call, tmp_path, source):
    code, out, _ = call(
        "train",
        *source,
        "--output",
        tmp_path / "run",
        *SMALL.split(),
        "--operator",
        "gin,sum",
        "--report-to",
        "tensorboard",
    )
    assert code == 0
    loss, perplexity = re.search(
        r"^validation loss (\S+) nats per token, perplexity (\S+), over [\d,]+ tokens$", out, re.M
    ).groups()
    assert float(perplexity) == pytest.approx(torch.tensor(float(loss)).exp().item(), rel=1e-3)
    assert f"next: graphformer generate {tmp_path / 'run'} 'The \"assert\" statement'" in out
    assert list((tmp_path / "run/tensorboard").iterdir())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert isinstance(model, gf.GraphformerForCausalLM)
    assert (
        list(model.config.operator) == ["gin", "sum"] and model.config.max_position_embeddings == 13
    )
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "run"))


@pytest.mark.slow
def test_the_printed_loss_is_that_of_the_saved_model(trained, text_file):
    tokens = encode(AutoTokenizer.from_pretrained(trained), split(read_text(text_file))[1])
    again = evaluate(
        AutoModelForCausalLM.from_pretrained(trained), TextDataset(tokens, 13, stride=13)
    )
    history = json.loads((trained / "checkpoint-12/trainer_state.json").read_text())["log_history"]
    last = [line for line in history if "eval_loss" in line][-1]
    assert last["step"] == 12 and last["eval_num_tokens"] == len(tokens) - 1
    assert last["eval_loss"] == pytest.approx(again.loss_nats_per_token, rel=1e-6)


def test_edges_from_the_tokens_before(call, text_file, tmp_path):
    code, _, err = call(
        *("train", text_file, "--output", tmp_path / "run", *SMALL.split(), "--steps", "1"),
        *("--chain", "2"),
    )
    assert code == 0, err
    model = gf.GraphformerForCausalLM.from_pretrained(tmp_path / "run")
    weights = [one for name, one in model.named_parameters() if name.endswith("relations.weight")]
    assert [tuple(one.shape) for one in weights] == [(2, 1, 12)] * 2
    assert all(one.abs().max() > 0 for one in weights)  # trained: they start at 0


@pytest.mark.slow
def test_merges_are_learned_from_the_training_part(call, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(WORDS * 30 + "zq" * 100)
    code, _, _ = call(
        "train",
        text,
        "--output",
        tmp_path / "run",
        *SMALL.split(),
        "--tokenizer",
        "bpe",
        "--vocab-size",
        280,
    )
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab()
    assert code == 0 and any("he" in token for token in vocabulary)
    assert not any("zq" in token for token in vocabulary)


def test_generate(call, trained):
    # three times the context of 13
    code, out, err = call("generate", trained, "the  cat", "--max-new-tokens", 40)
    assert code == 0 and not err
    assert out.startswith("the  cat") and len(out) == len("the  cat") + 40 + 1
    assert out == call("generate", trained, "the  cat", "--max-new-tokens", 40)[1]
    assert out != call("generate", trained, "the  cat", "--max-new-tokens", 40, "--seed", 1)[1]
    greedy = call("generate", trained, "the", "--greedy", "--max-new-tokens", 5)[1]
    assert (
        greedy
        == call("generate", trained, "the", "--top-k", 1, "--max-new-tokens", 5, "--seed", 3)[1]
    )
    assert (
        greedy
        == call("generate", trained, "the", "--top-p", 1e-6, "--max-new-tokens", 5, "--seed", 4)[1]
    )
    assert len(call("generate", trained, "the", "--num-beams", 3, "--max-new-tokens", 5)[1]) == 9
    assert call("generate", trained / "checkpoint-6", "the", "--max-new-tokens", 2)[0] == 0


def test_generate_looks_back_at_most_one_context(trained):
    from graphformer.cli.text import _continue

    class Watched:
        config = gf.GraphformerConfig(max_position_embeddings=8)
        seen: ClassVar[list] = []

        def generate(self, ids, attention_mask, max_new_tokens):
            Watched.seen.append((ids.tolist()[0], max_new_tokens))
            return torch.cat([ids, torch.full((1, max_new_tokens), len(Watched.seen))], dim=1)

    out = _continue(Watched(), torch.tensor([[0] * 5]), 9)
    assert out.tolist() == [[0] * 5 + [1] * 3 + [2] * 4 + [3] * 2]
    assert Watched.seen == [([0] * 5, 3), ([0, 1, 1, 1], 4), ([2] * 4, 2)]


def test_generate_refuses(call, trained, tmp_path):
    assert "never saw 'X' (U+0058), '§' (U+00A7); leave them out" in one_line(
        call("generate", trained, "X§")
    )
    assert "PROMPT is empty" in one_line(call("generate", trained, ""))
    assert "holds no complete model (there is no such folder)" in one_line(
        call("generate", tmp_path / "none", "a")
    )
    assert "--temperature must be above 0, got 0.0" in one_line(
        call("generate", trained, "a", "--temperature", 0)
    )
    assert "--top-p must be above 0 and at most 1, got 1.5" in one_line(
        call("generate", trained, "a", "--top-p", 1.5)
    )
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-100])
    assert f"model.safetensors ({len(weights) - 100} bytes) is cut short" in one_line(
        call("generate", copy, "a")
    )
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in one_line(call("generate", copy, "a"))
    (copy / "SHA256SUMS").unlink()
    assert "has no tokenizer.json" in one_line(call("generate", copy, "a"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "TEXT_FILE: give either a text file or --embedded."),
        (
            ["words.txt", "--embedded"],
            "TEXT_FILE: give either a text file or --embedded, not both.",
        ),
        (["nowhere.txt"], "there is no file 'nowhere.txt'"),
        (["--embedded", "--operator", "foo"], "unknown operator 'foo'"),
        (["--embedded", "--tokenizer", "word"], "--tokenizer must be one of char, byte, bpe"),
        (["--embedded", "--context", "900000"], "which is less than one window"),
    ],
)
def test_train_refuses(call, tmp_path, arguments, message):
    assert message in one_line(call("train", *arguments, "--output", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_options_out_of_range_are_usage_errors(call, tmp_path):
    for option in ("--steps", "--layers", "--batch-size", "--context"):
        code, _, err = call("train", "--embedded", "--output", tmp_path / "run", option, 0)
        assert code == 2 and option in err and "Traceback" not in err


def test_a_folder_with_files_is_left_alone(call, trained, text_file):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    message = one_line(call("train", text_file, "--output", trained, *SMALL.split()))
    assert "is not empty, and nothing in it is written over" in message and "--resume" in message
    assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_resume_warns_and_refuses(call, trained, text_file, tmp_path):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    (copy / "checkpoint-12/optimizer.pt").write_bytes(b"PK")
    again = ["train", text_file, "--output", copy, *SMALL.split(), "--batch-size", 6, "--resume"]
    code, out, err = call(*again)
    assert code == 0 and "saved in" in out and "lm_head" not in err
    assert re.search(
        r"^warning: passed over the broken checkpoint .*checkpoint-12: optimizer.pt \(2 bytes\)",
        err,
        re.M,
    )
    for name, value in load_file(copy / "model.safetensors").items():
        assert torch.equal(value, weights[name]), name

    other = tmp_path / "other.txt"
    other.write_text(WORDS.replace("cat", "act") * 60, encoding="utf-8")
    code, _, err = call(*again[:1], other, *again[2:])
    assert code == 2 and re.search(
        r"^error: --resume: .* started with other settings: text was '\w+', now it is '\w+'",
        err,
        re.M,
    )
    assert "model.operator was 'gin', now it is 'sum'" in call(*again, "--operator", "sum")[2]


@pytest.mark.slow
def test_two_processes_equal_one(trained, text_file, tmp_path):
    """Batches of 3 in two processes are the batches of 6 in one."""
    folder = tmp_path / "two"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "graphformer.cli",
    ]
    done = subprocess.run(
        [
            *command,
            "train",
            str(text_file),
            "--output",
            str(folder),
            *SMALL.split(),
            "--batch-size",
            "3",
        ],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # only the first process speaks
    assert done.stdout.count("validation loss") == 3 and done.stdout.count("next:") == 1
    assert {path.name for path in (folder / "checkpoint-12").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    one, two = load_file(trained / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-4, rtol=0), name

    def evaluations(path):
        history = json.loads((path / "checkpoint-12/trainer_state.json").read_text())["log_history"]
        return [line for line in history if "eval_loss" in line]

    tokens = encode(AutoTokenizer.from_pretrained(folder), split(read_text(text_file))[1])
    # the last round of the two processes is not full
    assert len(TextDataset(tokens, 13, stride=13)) % 6
    exact = evaluate(
        AutoModelForCausalLM.from_pretrained(folder), TextDataset(tokens, 13, stride=13)
    )
    assert evaluations(folder)[-1]["eval_num_tokens"] == exact.num_tokens
    assert evaluations(folder)[-1]["eval_loss"] == pytest.approx(
        exact.loss_nats_per_token, rel=1e-6
    )
    for ours, theirs in zip(evaluations(folder), evaluations(trained), strict=True):
        assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-4)


def test_help_and_errors_of_typing_and_files_import_nothing_that_takes_long():
    code = """
        import importlib, sys
        from graphformer.cli.app import COMMANDS, main
        for module, *_ in COMMANDS.values():
            importlib.import_module(f"graphformer.cli.{module}")
        for name in COMMANDS:
            files = {
                "train": ["nowhere.txt", "--output", "new"],
                "finetune": ["model", "nowhere.txt", "--output", "new"],
                "evaluate": ["model", "nowhere.txt"],
                "inspect": ["model", "--file", "nowhere.txt", "--output", "new.html"],
            }
            missing = [[name, *files[name]]] if name in files else []
            for arguments in ([name, "--help"], [name, "--no-such-option"], *missing):
                try:
                    main(arguments)
                except SystemExit as end:
                    assert end.code == (0 if "--help" in arguments else 2), arguments
        heavy = {"torch", "transformers", "numpy", "scipy", "torch_geometric"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("num_heads 5 and top_k=3", "--heads 5 and --top-k=3"),
        ("path: there is no file 'a'", "TEXT_FILE: there is no file 'a'"),
        ("levels must be names", "--levels must be names"),
        ("give levels, or levels=('a',)", "give levels, or --levels=('a',)"),
        ("data.top_k, 'top_k', a/top_k and --top_k", "data.top_k, 'top_k', a/top_k and --top_k"),
        ("hidden_size 3", "hidden_size 3"),
    ],
)
def test_errors_name_options(text, told):
    from graphformer.cli.wording import in_options

    spelled = {"heads": "--heads", "top_k": "--top-k", "text_file": "TEXT_FILE"}
    assert in_options(text, {**spelled, "levels": "--levels"}) == told


def test_errors_name_options_of_their_own_command_only():
    """``path`` is the text file of one command, and the --file of another."""
    from graphformer.cli.wording import in_options

    assert in_options("path: gone", {"file": "--file"}) == "--file: gone"
    assert in_options("give a folder, or root=None.", {"cache": "--cache"}).endswith(
        "or no --cache."
    )
    assert in_options("path: gone", {"dataset": "--dataset"}) == "path: gone"


def test_without_typer_it_is_said_in_a_line_what_to_install(monkeypatch, capsys):
    """Installed without extras, the command is there and what it is made of is not."""
    import graphformer.cli

    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "graphformer.cli.app", raising=False)
    monkeypatch.delattr(graphformer.cli, "app", raising=False)
    monkeypatch.delenv("GRAPHFORMER_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: The command line needs the package")
    assert "pip install 'graphformer[text]'" in told and told.count("\n") == 1
