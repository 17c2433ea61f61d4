"""Wrong inputs of every command: one line ``error: ...`` that names what is wrong and its value,
exit code 2, and not a file is written or changed.
"""

import contextlib
import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")

from graphformer.cli import main
from graphformer.cli.app import COMMANDS

SMALL = "--hidden-size 12 --layers 1 --heads 3 --context 13 --steps 4 --eval-steps 2 --save-steps 2"
TRAIN = f"train words.txt --output new {SMALL}"
GRAPHS = "train-graphs --output new --dataset"
POLYMERS = f"{GRAPHS} poly.csv --target-columns gap"
FINETUNE = "finetune text words.txt --output new --context 12"
INSPECT = "inspect text --output new.html --text Once"
TAKEN = "is not empty, and nothing in it is written over; name another"
RANGE = "Input should be greater than or equal to"

CASES = {
    "demo": [
        ("--output file", "error: --output: 'file' is a file; name a folder"),
        ("--output other", TAKEN),
        ("--output file/x", "'file/x' cannot be made, because '"),
        ("--steps 0", f"'--steps': {RANGE} 1, got '0'; see graphformer demo --help"),
        ("--steps nan", "'--steps': Input should be a valid integer", "got 'nan'"),
        ("--stepz 3", "No such option: --stepz", "--steps"),
        ("extra", "unexpected extra argument(s) (extra)"),
    ],
    "train": [
        ("train --output new", "TEXT_FILE: give either a text file or --embedded"),
        (f"{TRAIN} --embedded", "TEXT_FILE: give either a text file or --embedded, not both"),
        ("train nowhere.txt --output new", "error: TEXT_FILE: there is no file 'nowhere.txt'"),
        ("train emptydir --output new", "'emptydir' is a directory; give the path of one text"),
        ("train empty.txt --output new", "'empty.txt' is empty; give a text file"),
        ("train binary.txt --output new", "'binary.txt' is a binary file: byte 3 is NUL"),
        ("train latin.txt --output new", "'latin.txt' is no UTF-8 text: byte 0 is 0xe9", "iconv"),
        ("train short.txt --output new", "the text has 1 tokens", "use a longer text"),
        (f"{TRAIN} --operator gim", "unknown operator 'gim'; known: sum, gin, pna"),
        (f"{TRAIN} --operator gin,sum", "--operator names 2 layers, but --layers is 1"),
        (
            f"{TRAIN} --learning-rate nan",
            "--learning-rate must be a finite number above 0, got nan",
        ),
        (f"{TRAIN} --min-lr-ratio 2", "--min-lr-ratio must be at least 0 and at most 1, got 2.0"),
        (f"{TRAIN} --mlp-ratio 0", "--mlp-ratio must be above 0, got 0.0"),
        (f"{TRAIN} --heads 5", "--hidden-size 12 must be --heads 5 times"),
        (f"{TRAIN} --kv-heads 2", "--heads 3 is not a multiple of --kv-heads 2"),
        (f"{TRAIN} --threshold nan", "'--threshold'", "got 'nan'"),
        (f"{TRAIN} --chain 0", "'--chain'", "got '0'"),
        (
            f"{TRAIN} --chain 13 --context 13",
            "--chain 13: with --context 13 a token has at most 12 before it",
        ),
        (f"{TRAIN} --tokenizer word", "--tokenizer must be one of char, byte, bpe, got 'word'"),
        (f"{TRAIN} --vocab-size 10", "--vocab-size=10 has no use with --tokenizer='char'"),
        (f"{TRAIN} --report-to wandb", "must be 'tensorboard' or 'none', got 'wandb'"),
        (
            f"{TRAIN} --warmup-steps 4",
            "--warmup-steps must be at least 0 and below --steps=4, got 4",
        ),
        (f"{TRAIN} --seed -1", f"'--seed': {RANGE} 0, got '-1'"),
        (f"{TRAIN} --config bad.yaml", "bad.yaml cannot be read as the command.yaml of a run"),
        (f"{TRAIN} --config emptydir", "--config 'emptydir' is no file"),
        (f"{TRAIN} --config graph/command.yaml", "is of graphformer train-graphs, not of train"),
        ("train words.txt --output other", TAKEN),
        ("train words.txt --output file/x", "cannot be made, because", "is a file; name another"),
        ("train --output graph --resume", "is of graphformer train-graphs, not of train"),
        ("train --output other --resume words.txt", "holds no run to resume (no run.json)"),
        ("train --output text --resume --steps 3", "--steps=3: the run was planned with --steps=4"),
        ("train --output text --resume --seed 5", "seed was 0, now it is 5"),
        ("train --output text --resume --steps 9 --heads 1", "num_attention_heads was 3, now it"),
    ],
    "generate": [
        ("nowhere a", "'nowhere' holds no complete model (there is no such folder)"),
        ("file a", "'file' holds no complete model (it is no folder)"),
        ("emptydir a", "config.json is missing"),
        ("graph a", "'graph' holds a model of graphs, which reads no text; graphformer predict"),
        ("text", "Missing argument 'prompt'"),
        ("text Once --temperature nan", "--temperature must be a finite number above 0, got nan"),
        ("text Once --top-p 0", "--top-p must be above 0 and at most 1, got 0.0"),
        ("text Once --top-k 0", f"'--top-k': {RANGE} 1, got '0'"),
        ("text Once --greedy --top-k 3", "--top-k has no effect with --greedy"),
        ("text Once --greedy --num-beams 3", "are two ways to search: give one of them"),
        ("text é", "the tokenizer never saw 'é' (U+00E9)"),
    ],
    "evaluate": [
        ("nowhere words.txt", "'nowhere' is no folder; nothing is fetched"),
        ("words.txt text", "'text' is a directory; give the path of one text file"),
        ("text nowhere.txt", "there is no file 'nowhere.txt'"),
        ("text binary.txt", "'binary.txt' is a binary file"),
        ("text empty.txt", "'empty.txt' is empty"),
        ("graph words.txt", "'graph' holds a model of graphs, which reads no text"),
        ("text words.txt --context 99", "--context 99: the model reads at most 13 tokens"),
        ("text words.txt --output no/a.json", "--output 'no/a.json': its folder does not exist"),
        ("text words.txt --output other", "--output 'other' is a folder; name a file in it"),
        ("text words.txt --batch-size 0", f"'--batch-size': {RANGE} 1, got '0'"),
    ],
    "finetune": [
        ("finetune nowhere words.txt --output new", "'nowhere' is no folder"),
        ("finetune graph words.txt --output new", "'graph' holds a model of graphs"),
        ("finetune text nowhere.txt --output new", "there is no file 'nowhere.txt'"),
        ("finetune text empty.txt --output new", "'empty.txt' is empty"),
        (
            f"{FINETUNE} --method prefix",
            "unknown --method 'prefix'; known: lora, bottlenecks, sparse-gin",
        ),
        (f"{FINETUNE} --rank 0", f"'--rank': {RANGE} 1, got '0'"),
        (f"{FINETUNE} --method sparse-gin --rank 3", "--rank has no effect with --method sparse"),
        (f"{FINETUNE} --threshold 0.1", "--threshold has no effect with --method lora"),
        (f"{FINETUNE} --method sparse-gin --threshold inf", "threshold must be a finite number"),
        (f"{FINETUNE} --context 999", "--context 999: the model reads at most 13 tokens"),
        (f"{FINETUNE} --learning-rate 0", "--learning-rate must be above 0, got 0.0"),
        ("finetune text words.txt --output other", TAKEN),
        ("finetune text words.txt --output graph --resume", "is of graphformer train-graphs"),
    ],
    "train-graphs": [
        (f"{GRAPHS} nowhere", "--dataset: there is no folder or file 'nowhere'"),
        ("train-graphs --output new", "Missing option '--dataset'"),
        (f"{GRAPHS} emptydir", "--dataset: 'emptydir' has neither images nor structures"),
        (
            f"{GRAPHS} poly.csv",
            "--target-columns is needed with a CSV of polymers",
            "one or several",
        ),
        (f"{GRAPHS} poly.csv --target-columns gapp", "no column 'gapp'; its columns: smiles, gap"),
        (f"{POLYMERS} --smiles-column s", "no column 's'; its columns: smiles, gap"),
        (f"{GRAPHS} poly.csv --target-columns gap,gap", "'gap' is there twice"),
        (f"{GRAPHS} nan.csv --target-columns gap", "--dataset: 2 graphs are too few"),
        (f"{GRAPHS} header.csv --target-columns gap", "'header.csv' has no rows"),
        (f"{GRAPHS} twice.csv --target-columns gap", "has the column 'smiles' 2 times"),
        (f"{POLYMERS} --held-out nan", "--held-out must be above 0 and below 0.5, got nan"),
        (f"{POLYMERS} --operator gim", "unknown operator 'gim'; known: gin, pna, sum"),
        (f"{POLYMERS} --candidates egdes", "unknown candidates 'egdes'; known: edges"),
        (f"{POLYMERS} --candidates knn:3", "'knn:3' needs the positions of nodes: data.pos is"),
        (f"{POLYMERS} --levels group_7", "data.group_7 is missing"),
        (f"{POLYMERS} --normalize soft", "unknown normalizer 'soft'; known"),
        (f"{POLYMERS} --dropout 1.5", "dropout must be a probability in 0..1, got 1.5"),
        (f"{POLYMERS} --heads 5", "--hidden-size 64 is not a multiple of --heads 5"),
        (f"{POLYMERS} --min-lr-ratio nan", "--min-lr-ratio must be a finite number", "got nan"),
        (
            f"{POLYMERS} --target-scaling z",
            "unknown --target-scaling 'z'; known: standard, log, none",
        ),
        (
            f"{POLYMERS} --dim 3",
            "--dim is for polycrystals, and --dataset 'poly.csv' is of polymers",
        ),
        (f"{POLYMERS} --cache file", "'file/processed' cannot be written to (Not a directory)"),
        (f"{GRAPHS} polycrystal --grains x", "--grains must be a number or two", "got 'x'"),
        (f"{GRAPHS} polycrystal --graphs 2 --resolution 8 --grains 3", "2 graphs are too few"),
        (f"{GRAPHS} polycrystal --contrast nan --graphs 5", "contrast must be positive, got nan"),
        (f"{GRAPHS} images", "--targets is needed with a folder of images"),
        (f"{GRAPHS} images --targets nowhere.csv", "there is no file 'nowhere.csv'"),
        (f"{GRAPHS} broken.pdb", "ProteinStructures has no graph"),
        (f"{GRAPHS} broken.pdb --cutoff nan", "cutoff must be positive, in Å, got nan"),
        (f"{GRAPHS} broken.pdb --features sasa", "--features: sasa would tell the model"),
        ("train-graphs --output other --dataset poly.csv --target-columns gap", TAKEN),
        ("train-graphs --output text --dataset poly.csv --resume", "is of graphformer train, not"),
        ("train-graphs --output graph --resume --epochs 1", "epochs=1: the run was planned with"),
        ("train-graphs --output graph --resume --epochs 9 --seed 4", "seed was 0, now it is 4"),
    ],
    "predict": [
        ("graph", "Missing argument 'files'"),
        ("graph nowhere.csv", "there is no file 'nowhere.csv'"),
        ("graph emptydir", "there is no file 'emptydir'"),
        ("graph words.txt", "words.txt has no column 'smiles' of polymers"),
        ("graph header.csv", "header.csv has no rows"),
        ("graph images/a.npy", "cannot be read as a table"),
        ("graph poly.csv poly.csv", "'poly.csv' is given twice; name each file once"),
        ("graph poly.csv --smiles-column foo", "poly.csv has no column 'foo' of polymers"),
        ("graph poly.csv --tables images", "--tables 'images' is for models of microstructures"),
        ("graph poly.csv --output poly.csv", "'poly.csv' is there already, and nothing is written"),
        ("graph poly.csv --output no/a.csv", "--output: there is no folder 'no'"),
        ("graph poly.csv --max-nodes 0", f"'--max-nodes': {RANGE} 1, got '0'"),
        ("graph poly.csv --plot other", "--plot: 'other' is there already"),
        ("graph poly.csv --plot-limit 3", "--plot-limit has no effect without --plot"),
        ("graph poly.csv --bfactors new", "--bfactors 'new' is for models of proteins"),
        ("graph poly.csv --samples 3", "--samples 3: 'graph' was trained without dropout"),
        ("graph poly.csv --ensemble graph", "--ensemble 'graph' is there twice"),
        ("graph poly.csv --ensemble text", "'text' holds a model of another kind"),
        ("text poly.csv", "'text' holds a model of another kind"),
        ("nowhere poly.csv", "'nowhere' holds no complete model"),
    ],
    "inspect": [
        ("inspect text --output new.html", "give the text with --text or a file with --file"),
        (f"{INSPECT} --file words.txt", "--file, not both"),
        ("inspect text --output new.txt --text a", "'new.txt' ends in none of .html, .csv"),
        ("inspect nowhere --output new.html --text a", "'nowhere' is no folder"),
        ("inspect graph --output new.html --text a", "'graph' holds a model of graphs"),
        (f"{INSPECT} --threshold 2", "'--threshold'", "got '2'"),
        (f"{INSPECT} --layers x", "--layers must be whole numbers, as in 0,3,7; got 'x'"),
        (f"{INSPECT} --layers 9", "layers=[9]: the pass had 1 layers"),
        (f"{INSPECT} --heads 9", "heads=[9]: model.layers.0.self_attn has 3 heads"),
        (f"{INSPECT} --measures", "--measures has no effect with --output new.html"),
        (f"{INSPECT} --max-tokens 3", "--max-tokens has no effect with --text"),
        ("inspect text --output no/new.html --text Once", "'no/new.html': its folder does not"),
        ("inspect text --output dir.html --text Once", "--output 'dir.html' is a folder"),
        (
            "inspect text --output new.html --text é",
            "--text 'é' has no tokens that the model knows",
        ),
        ("inspect text --output new.png --text Once", "is a picture of one head: say which with"),
        ("inspect text --output new.html --file empty.txt", "error: --file: 'empty.txt' is empty"),
    ],
    "bench": [
        ("--length 1", f"'--length': {RANGE} 2, got '1'"),
        ("--hidden-size 12 --heads 5", "--hidden-size 12 is not a multiple of --heads 5"),
        ("--device cuda:99", "--device 'cuda:99' cannot be used", "cpu can"),
        ("--device toaster", "--device 'toaster' cannot be used"),
        ("--device meta", "--device 'meta' cannot be used"),
        ("--device=", "--device '' cannot be used"),
        ("--repetitions 0", f"'--repetitions': {RANGE} 1, got '0'"),
        ("--heads x", "'--heads': Input should be a valid integer", "got 'x'"),
        ("extra", "unexpected extra argument(s) (extra)"),
    ],
    "doctor": [
        ("extra", "unexpected extra argument(s) (extra)"),
        ("--tests", "No such option: --tests", "--test"),
        ("--test=3", "Option '--test' does not take a value"),
        ("--test maybe", "unexpected extra argument(s) (maybe)"),
        ("--quiet", "No such option: --quiet"),
    ],
    "": [
        ("trian", "No such command 'trian'; did you mean 'train'?; see graphformer --help"),
        ("--versio", "No such option: --versio", "--version"),
        ("-q", "Missing command"),
    ],
}
QUOTED = {
    "an empty text": (
        ["inspect", "text", "--output", "new.html", "--text", ""],
        "--text '' has no",
    ),
    "an empty prompt": (["generate", "text", ""], "PROMPT is empty"),
    "an empty data set": (
        ["train-graphs", "--output", "new", "--dataset", ""],
        "--dataset is empty",
    ),
    "no operator": ([*TRAIN.split(), "--operator", ""], "unknown operator ''"),
    "no layer": ([*INSPECT.split(), "--layers", ""], "--layers must be whole numbers"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of text, a run of graphs, and files of every wrong kind."""
    folder = tmp_path_factory.mktemp("wrong")
    words = "".join(f"Once upon a time there were {n} wolves.\n" for n in range(60))
    for name, content in {
        "words.txt": words.encode(),
        "empty.txt": b"",
        "short.txt": b"ab",
        "binary.txt": b"abc\0def",
        "latin.txt": "é".encode("latin1") * 100,
        "file": b"x",
        "bad.yaml": b"a: [",
        "nan.csv": b"smiles,gap\n*CC*,nan\n*CCC*,inf\n*CCCC*,2\n*CCCCC*,2\n",
        "header.csv": b"smiles,gap\n",
        "twice.csv": b"smiles,smiles,gap\n*CC*,*CC*,1\n",
        "broken.pdb": b"HELLO\n",
        "other/x.txt": b"x",
        "dir.html/x": b"x",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("emptydir", "images"):
        (folder / name).mkdir()
    np.save(folder / "images" / "a.npy", np.zeros((4, 4), dtype=np.int64))
    with (folder / "poly.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("smiles", "gap"))
        rows.writerows((f"*{'C' * n}O*", 0.5 * n) for n in range(1, 24))
    graphs = "--hidden-size 8 --layers 1 --heads 2 --epochs 2"
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _chdir(folder):
        for command in (
            f"train words.txt --output text {SMALL}",
            f"train-graphs --dataset poly.csv --target-columns gap --output graph {graphs}",
        ):
            with pytest.raises(SystemExit) as end:
                main(["--quiet", *command.split()])
            assert end.value.code == 0
    return folder


@contextlib.contextmanager
def _chdir(folder):  # before Python 3.11
    import os

    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def everything(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def refused(call, place, arguments, told):
    before = everything(place)
    code, _, err = call(*arguments)
    lines = err.splitlines()
    assert code == 2, (code, err)
    assert lines and lines[-1].startswith("error: "), err
    assert all(line.startswith("warning: ") for line in lines[:-1]), err
    for text in told:
        assert text in lines[-1], lines[-1]
    assert everything(place) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(
            (words if words.startswith(name) and name else f"{name} {words}").split(),
            told,
            id=f"{name} {words}"[:80],
        )
        for name, cases in CASES.items()
        for words, *told in cases
    ],
)
def test_a_wrong_input(call, place, monkeypatch, arguments, told):
    for extra in ("rdkit", "biotite", "peft"):
        pytest.importorskip(extra)
    monkeypatch.chdir(place)
    refused(call, place, arguments, told)


@pytest.mark.parametrize("name", QUOTED)
def test_an_empty_word(call, place, monkeypatch, name):
    monkeypatch.chdir(place)
    arguments, told = QUOTED[name]
    refused(call, place, arguments, [told])


def test_every_command_is_given_at_least_five():
    assert {name for name in CASES if name} == set(COMMANDS)
    assert min(len(cases) for name, cases in CASES.items() if name) >= 5


def test_no_argument_is_a_question_for_help(call):
    code, _, err = call()
    assert code == 2 and err.startswith("Usage: graphformer") and "train-graphs" in err


def test_a_remedy_without_an_option_is_left_out(call, refused, tmp_path):
    (tmp_path / "words.txt").write_text("the cat sat on the mat. " * 99)
    sizes = ["--hidden-size", "30", "--heads", "7"]
    err = refused(call("train", tmp_path / "words.txt", "--output", tmp_path / "run", *sizes))
    assert "--hidden-size 30 must be --heads 7 times an even head width" in err
    assert "head_dim" not in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("adapter_config.json", text) for text in ("{", "[1]", "{}")],
        ("adapter_config.json", '{"base_model_name_or_path": 3}'),
        *[("config.json", text) for text in ("null", "[1]", '"llama"', "[" * 100_000)],
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}'),
    ],
)
def test_a_folder_with_a_damaged_table_is_named(name, text, tmp_path):
    from graphformer.cli.opening import open_model

    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="MODEL: ") as told:
        open_model(tmp_path)
    assert tmp_path.name in str(told.value)
