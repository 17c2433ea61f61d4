"""Checkpoints and models: verified by digests, written whole, one run a folder, no damaged file
that shows a traceback.
"""

import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import graphformer as gf
from graphformer.datasets import TextDataset, build_tokenizer, encode
from graphformer.training import (
    GraphModel,
    checkpoint_problems,
    latest_checkpoint,
    load_graph_model,
    load_language_model,
    model_problems,
    train_language_model,
)
from graphformer.training.run import run_folder
from graphformer.training.saving import SUMS_FILE, SaveError, new_files, new_folder
from tests.conftest import ROOT

WORDS = "the cat sat on the mat, the dog sat on the log; and the bird sang. "
TEXT = (
    "--hidden-size 4 --layers 1 --heads 2 --intermediate-size 5 --context 7 --steps 3 --save-steps "
    "1 --eval-steps 3 --batch-size 2"
)
GRAPHS = (
    "--dataset polycrystal --graphs 6 --grains 3,4 --resolution 8 --epochs 3 --hidden-size 4 "
    "--layers 1 --heads 1 --max-nodes 60"
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(WORDS * 5)
    return path


def make_model(**changes):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 256,
        "hidden_size": 4,
        "intermediate_size": 5,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            **{**sizes, "max_position_embeddings": 7, "hidden_dropout": 0.2, **changes}
        )
    )


def run(folder, model=None, **changes):
    tokenizer = build_tokenizer("byte", "")
    tokens = encode(tokenizer, WORDS * 5)
    settings = {
        "steps": 4,
        "batch_size": 2,
        "eval_steps": 4,
        "save_steps": 1,
        "save_total_limit": None,
        "progress": False,
        **changes,
    }
    data = TextDataset(tokens, 7), TextDataset(tokens[:60], 7, stride=7)
    return train_language_model(
        model or make_model(), *data, folder, tokenizer=tokenizer, **settings
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole.output_dir, tmp_path / "copy"))


def same(result, other):
    return all(
        torch.equal(value, other.model.state_dict()[name])
        for name, value in result.model.state_dict().items()
    )


def forget_digests(folder):
    for path in [folder / SUMS_FILE, *folder.glob(f"*/{SUMS_FILE}")]:
        path.unlink(missing_ok=True)


# ---- Digests and weights


def test_all_files_that_are_read_have_digests_that_sha256sum_verifies(folder):
    for place in (folder, folder / "checkpoint-4"):
        names = {line.split("  ")[1] for line in (place / SUMS_FILE).read_text().splitlines()}
        assert names >= {
            "model.safetensors",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        if shutil.which("sha256sum"):
            subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=place, check=True)
    assert names >= {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert names == {path.name for path in place.iterdir()} - {SUMS_FILE}


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "trainer_state.json",
        "tokenizer.json",
        SUMS_FILE,
    ],
)
def test_one_flipped_bit_is_found(folder, name):
    path = folder / "checkpoint-4" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert len(checkpoint_problems(path.parent)) == 1
    with pytest.warns(
        UserWarning,
        match=r"passed over the broken checkpoint .*checkpoint-4: .*resuming from .*checkpoint-3",
    ):
        assert latest_checkpoint(folder) == folder / "checkpoint-3"


def test_a_flipped_bit_of_a_final_model_is_found(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-3] ^= 4
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"model.safetensors \(\d+ bytes\) is not the file that was saved \(its digest",
    ):
        load_language_model(folder)


def drop(weights):
    del weights["model.layers.0.input_layernorm.weight"]


def rename(weights):
    weights["model.norm.scale"] = weights.pop("model.norm.weight")


def widen(weights):
    weights["model.norm.weight"] = torch.ones(5)


def round_off(weights):
    weights["model.norm.weight"] = torch.ones(4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop, r"the weights lack model\.layers\.0\.input_layernorm\.weight"),
        (
            rename,
            r"the weights lack model\.norm\.weight; the weights hold model\.norm\.scale, which the "
            r"model does not have",
        ),
        (widen, r"model\.norm\.weight has shape \[5\], and the model's has \[4\]"),
        (
            round_off,
            r"model\.norm\.weight holds numbers of type I32, and the model's are torch\.float32",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_named_even_without_digests(folder, change, named):
    forget_digests(folder)
    path = folder / "checkpoint-4/model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=named):
        run(folder, resume=folder / "checkpoint-4")
    with pytest.warns(UserWarning, match=named):
        assert run(folder, resume=True).resumed_from == 3


@pytest.mark.parametrize("change", [drop, rename, widen])
def test_a_model_is_not_completed_by_random_weights(folder, change):
    forget_digests(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights do not fit config\.json|cannot be read"):
        load_language_model(folder)


def test_states_of_an_optimizer_of_other_shapes_are_refused(folder):
    forget_digests(folder)
    path = folder / "checkpoint-4/optimizer.pt"
    states = torch.load(path, weights_only=True)
    states["state"][0]["exp_avg"] = states["state"][0]["exp_avg"][:1]
    torch.save(states, path)
    shutil.rmtree(folder / "checkpoint-3")
    os.rename(folder / "checkpoint-4", folder / "checkpoint-3")
    state = json.loads((folder / "checkpoint-3/trainer_state.json").read_text())
    (folder / "checkpoint-3/trainer_state.json").write_text(json.dumps({**state, "global_step": 3}))
    with pytest.raises(
        ValueError,
        match=r"checkpoint-3' cannot be read \(ValueError: exp_avg has shape \[1, \d+\], and its "
        r"parameter \[",
    ):
        run(folder, resume=True)


def test_checkpoints_of_earlier_versions_resume(whole, folder):
    forget_digests(folder)
    for name in ("checkpoint-3", "checkpoint-4"):
        shutil.rmtree(folder / name)
    again = run(folder, resume=True)
    assert again.resumed_from == 2 and same(again, whole)
    forget_digests(folder)
    assert load_language_model(folder)[0].config.hidden_size == 4


def test_resuming_says_nothing_of_tied_weights(folder, capfd):
    model = make_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight  # one of the two is saved
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(folder, model, resume=folder / "checkpoint-2")
    assert "missing" not in "".join(capfd.readouterr())


# ---- What a killed or failed run leaves


def test_an_unfinished_first_checkpoint_of_an_earlier_version_does_not_block_its_folder(
    whole, folder
):
    forget_digests(folder)
    for name in ("checkpoint-2", "checkpoint-3", "checkpoint-4"):
        shutil.rmtree(folder / name)
    for name in ("trainer_state.json", "rng_state.pth"):
        (folder / "checkpoint-1" / name).unlink()
    with pytest.warns(
        UserWarning,
        match=r"passed over the unfinished checkpoint .*rng_state.pth is missing.*from the "
        r"beginning",
    ):
        again = run(folder, resume=True)
    assert again.resumed_from == 0 and same(again, whole)


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_a_run_that_failed_before_its_first_checkpoint_does_not_block_its_folder(
    tmp_path, report_to
):
    model = make_model()
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="diverged"):
        run(tmp_path / "run", model, report_to=report_to, save_steps=2)
    with pytest.raises(
        ValueError,
        match=r"seed was 0, now it is 1\. .*start a new run in this folder, which holds no "
        r"checkpoint yet",
    ):
        run(tmp_path / "run", seed=1, resume=True, save_steps=2)
    assert run(tmp_path / "run", seed=1, report_to=report_to).steps == 4
    with pytest.raises(ValueError, match="is not empty, and nothing in it is written over"):
        run(tmp_path / "run")


def test_leftovers_are_ignored_and_removed(whole, tmp_path):
    place = tmp_path / "run"
    (place / ".partial/checkpoint-1").mkdir(parents=True)
    for name in (".run.json.partial", "run.json.tmp", ".lock"):
        (place / name).write_text("{")
    assert same(run(place), whole)
    (place / ".partial/checkpoint-9").mkdir(parents=True)
    run(place, resume=True)
    assert not [path for path in place.iterdir() if "partial" in path.name or "tmp" in path.name]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("before")
    with (
        pytest.raises(SaveError, match=r"a' could not be written \(no room; [\d.]+ MB are free"),
        new_folder(tmp_path / "a") as new,
    ):
        (new / "x").write_text("after")
        raise RuntimeError("no room")
    with pytest.raises(KeyboardInterrupt), new_files(tmp_path / "a") as new:
        (new / "x").write_text("after")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "x"] and (
        tmp_path / "a/x"
    ).read_text() == "before"


def test_whole_checkpoints_are_not_removed_in_favour_of_broken_ones(folder):
    for step in (3, 4):
        (folder / f"checkpoint-{step}/optimizer.pt").write_bytes(b"")
    with pytest.warns(
        UserWarning, match="checkpoint-4: optimizer.pt.*resuming from .*checkpoint-2"
    ):
        run(folder, resume=True, save_total_limit=1)
    assert [path.name for path in folder.glob("checkpoint-*")] == [
        "checkpoint-4"
    ] and not checkpoint_problems(folder / "checkpoint-4")


def test_a_moved_run_resumes(whole, folder, tmp_path):
    shutil.rmtree(folder / "checkpoint-4")
    os.rename(folder, tmp_path / "moved")
    assert same(run(tmp_path / "moved", resume=True), whole)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{", "", "[" * 200_000])
def test_damaged_settings_are_told(folder, text):
    (folder / "run.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"resume: '.*run.json' cannot be read \(run.json is .*put it back"
    ):
        run(folder, resume=True)


# ---- One run a folder


def hold(folder):
    """The number of a process that has a run in this folder until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with run_folder(folder, resume=False):
                (folder / "run.json").write_text("{}")
                os.write(writer, b"held")
                time.sleep(600)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as told:
        assert told.read(4) == "held"
    return child


def test_a_folder_with_a_living_run_is_refused_and_with_a_killed_one_not(tmp_path, call, words):
    living = hold(tmp_path / "run")
    try:
        for resume in (False, True):
            with pytest.raises(
                ValueError,
                match=rf"another run \(process {living} on \S+\) is writing into '.*run'; wait",
            ):
                run(tmp_path / "run", resume=resume)
        for options in (["--resume"], []):
            code, out, err = call(
                "train", words, "--output", tmp_path / "run", *TEXT.split(), *options
            )
            told = r"error: --output: another run .* name another folder\.\n"
            assert code == 2 and not out and re.fullmatch(told, err)
    finally:
        os.kill(living, signal.SIGKILL)
        os.waitpid(living, 0)
    assert run(tmp_path / "run").steps == 4


def test_of_two_new_runs_one_wins(tmp_path):
    """Twenty pairs, each of two processes that are forked at once."""
    for pair in range(20):
        start = time.monotonic() + 0.05
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                code = 3
                try:
                    while time.monotonic() < start:
                        pass
                    with run_folder(tmp_path / f"run-{pair}", resume=False):
                        (tmp_path / f"run-{pair}/checkpoint-1").mkdir()
                        time.sleep(random.Random(pair).choice([0, 0.01, 0.5]))
                        code = 0
                except ValueError as error:
                    code = 2 if re.search("another run|is not empty", str(error)) else 4
                finally:
                    os._exit(code)
            children.append(child)
        assert sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == [
            0,
            2,
        ], pair


# ---- The command line and damaged files


@pytest.fixture(scope="module")
def text_run(words, tmp_path_factory):
    return finished(tmp_path_factory.mktemp("text") / "run", ["train", str(words), *TEXT.split()])


@pytest.fixture(scope="module")
def graph_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("graphs")
    return finished(root / "run", ["train-graphs", *GRAPHS.split(), "--cache", str(root / "cache")])


def finished(folder, arguments):
    from graphformer.cli import main

    with pytest.raises(SystemExit) as end:
        main([*arguments, "--output", str(folder)])
    assert end.value.code == 0
    return folder, arguments


def empty(path, chance):
    path.write_bytes(b"")


def cut(path, chance):
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def flip(path, chance):
    data = bytearray(path.read_bytes())
    for place in chance.sample(range(len(data)), min(3, len(data))):
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def scramble(path, chance):
    path.write_bytes(chance.randbytes(path.stat().st_size))


def remove(path, chance):
    path.unlink()


def folder_instead(path, chance):
    path.unlink()
    path.mkdir()


def huge_header(path, chance):
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def other_json(path, chance):
    path.write_text(
        chance.choice(
            [
                "[]",
                "null",
                "3",
                '{"a": 1}',
                "{",
                "NaN",
                "[" * 100_000,
                '{"model_type": "llama"}',
                '{"kind": 3}',
            ]
        )
    )


class Evil:
    def __reduce__(self):
        return (os.mkdir, (str(Path(os.environ["GRAPHFORMER_TEST_MARKER"])),))


def pickle_instead(path, chance):
    torch.save({"state": Evil(), "param_groups": []}, path)


DAMAGES = [empty, cut, flip, scramble, remove, folder_instead]
FURTHER = {
    ".safetensors": [huge_header],
    ".json": [other_json],
    ".pt": [pickle_instead],
    ".pth": [pickle_instead],
}


def cases(folder, every):
    """(file, damage, with digests): each damage of each file, or every so many of them."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in (".lock", "training_args.bin")
    )
    found = [
        (file.name, damage, sums)
        for file in files
        for damage in DAMAGES + FURTHER.get(file.suffix, [])
        for sums in (True, False)
    ]
    return found[::every]


def told_or_same(call, arguments, weights, expected):
    """One line of error, or the result that it has without the damage."""
    code, out, err = call(*arguments)
    lines = [
        line
        for line in err.splitlines()
        if not line.startswith("warning: ") and "it/s" not in line and line.strip()
    ]
    assert "Traceback" not in err and "Traceback" not in out, err
    if code:
        assert (
            code == 2
            and len(lines) == 1
            and lines[0].startswith("error: ")
            and len(lines[0]) < 2000
        ), err
    elif expected is not None:
        assert (weights.read_bytes() if weights else out) == expected, (arguments, err)
    return code, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "every", [29, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
@pytest.mark.parametrize("kind", ["text", "graphs"])
def test_resuming_with_a_damaged_file_is_told_or_changes_nothing(
    request, call, tmp_path, monkeypatch, kind, every
):
    whole, arguments = request.getfixturevalue("text_run" if kind == "text" else "graph_run")
    newest = max(whole.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])).name
    expected, chance, outcomes = (whole / "model.safetensors").read_bytes(), random.Random(1), set()
    monkeypatch.setenv("GRAPHFORMER_TEST_MARKER", str(tmp_path / "marker"))
    for name, damage, sums in [
        *cases(whole / newest, every),
        ("run.json", cut, True),
        ("run.json", folder_instead, True),
    ]:
        folder = Path(shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=False))
        if not sums:
            forget_digests(folder)
        path = folder / name if name == "run.json" else folder / newest / name
        if path.exists():
            damage(path, chance)
            # Without digests a flipped bit of a number cannot be told from the number.
            same = expected if sums or damage not in (flip,) else None
            code, _ = told_or_same(
                call,
                [*arguments, "--output", folder, "--resume"],
                folder / "model.safetensors",
                same,
            )
            outcomes.add(code)
            assert not (tmp_path / "marker").exists()
        shutil.rmtree(folder)
    assert outcomes == {0, 2}


@pytest.mark.parametrize(
    "every", [7, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
@pytest.mark.parametrize("kind", ["text", "graphs"])
def test_a_damaged_model_is_told_or_changes_nothing(request, call, tmp_path, kind, every):
    whole, _ = request.getfixturevalue("text_run" if kind == "text" else "graph_run")
    (tmp_path / "a.npy").write_bytes(b"")
    what = {"text": ["the", "--max-new-tokens", "2"], "graphs": [tmp_path / "a.npy"]}[kind]
    chance, command = random.Random(2), "generate" if kind == "text" else "predict"
    refused = 0
    written = call(command, whole, *what)[1] if kind == "text" else None
    for name, damage, sums in cases(whole, every):
        folder = Path(
            shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
        )
        if not sums:
            (folder / SUMS_FILE).unlink()
        if (folder / name).exists():
            damage(folder / name, chance)
            code, err = told_or_same(
                call, [command, folder, *what], None, written if sums else None
            )
            refused += code == 2 and "a.npy" not in err
        shutil.rmtree(folder)
    assert refused >= 5


def test_models_of_the_other_kind_and_other_tokenizers_are_told(
    call, refused, text_run, graph_run, tmp_path
):
    (tmp_path / "a.npy").write_bytes(b"")
    assert "holds a model of another kind" in refused(
        call("predict", text_run[0], tmp_path / "a.npy")
    )
    assert "holds a model of graphs, which reads no text" in refused(
        call("generate", graph_run[0], "the")
    )
    copy = Path(shutil.copytree(text_run[0], tmp_path / "copy"))
    build_tokenizer("byte", "").save_pretrained(copy)
    assert "tokenizer.json" in refused(call("generate", copy, "the"))
    (copy / SUMS_FILE).unlink()
    assert re.search(
        r"the tokenizer has \d+ tokens, and the model knows \d+; put back",
        refused(call("generate", copy, "the")),
    )


@pytest.mark.parametrize("value", [torch.nan, 3e38])
def test_weights_that_write_no_text_are_told(call, refused, text_run, tmp_path, value):
    copy = Path(shutil.copytree(text_run[0], tmp_path / "copy"))
    (copy / SUMS_FILE).unlink()
    weights = {
        name: torch.full_like(tensor, value)
        for name, tensor in load_file(copy / "model.safetensors").items()
    }
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert str(copy) in refused(call("generate", copy, "the"))


def test_a_graph_model_is_written_whole_and_read_as_written(tmp_path):
    net = gf.GraphTransformer(2, hidden_size=4, num_heads=1, num_layers=1)
    GraphModel(net).save(tmp_path / "model")
    assert model_problems(tmp_path / "model") == [] and {
        p.name for p in (tmp_path / "model").iterdir()
    } == {
        SUMS_FILE,
        "config.json",
        "model.safetensors",
    }
    (tmp_path / "model/config.json").write_text(
        (tmp_path / "model/config.json").read_text().replace('"gin"', '"sum"')
    )
    with pytest.raises(ValueError, match=r"config\.json .* is not the file that was saved"):
        load_graph_model(tmp_path / "model")
    (tmp_path / "model" / SUMS_FILE).unlink()
    with pytest.raises(ValueError, match=r"the weights do not fit config\.json: the weights hold "):
        load_graph_model(tmp_path / "model")


def test_the_best_checkpoint_is_verified_with_the_newest(call, graph_run, tmp_path):
    folder = Path(shutil.copytree(graph_run[0], tmp_path / "run"))
    forget_digests(folder)
    newest = latest_checkpoint(folder)
    other = next(path for path in folder.glob("checkpoint-*") if path != newest)
    state = json.loads((newest / "trainer_state.json").read_text())
    (newest / "trainer_state.json").write_text(
        json.dumps({**state, "best_global_step": int(other.name.split("-")[1])})
    )
    assert checkpoint_problems(newest) == []
    (other / "model.safetensors").write_bytes(b"")
    problem = f"{other.name}, the best up to there: model.safetensors (0 bytes) is cut short"
    assert checkpoint_problems(newest)[0].startswith(problem)
    code, _, err = call(*graph_run[1], "--output", folder, "--resume")
    assert code == 2 and problem in err and err.count("\n") == 1


# ---- Interrupted, and code in folders


@pytest.mark.parametrize(
    ("after", "told"), [(0, "nothing is saved in"), (2, "the checkpoint of step 2 is kept in")]
)
def test_an_interrupt_says_what_is_kept_and_goes_on(
    call, monkeypatch, text_run, tmp_path, after, told
):
    from graphformer.training.language.trainer import LanguageTrainer

    steps = iter(range(after))
    real = LanguageTrainer.training_step

    def step(self, *args, **kwargs):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    whole, arguments = text_run
    with monkeypatch.context() as patch:
        patch.setattr(LanguageTrainer, "training_step", step)
        code, _, err = call(*arguments, "--output", tmp_path / "run")
    assert code == 130 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"interrupted: {told} '{tmp_path / 'run'}'")
    code, _, err = call(*arguments, "--output", tmp_path / "run", *(["--resume"] if after else []))
    assert code == 0, err
    assert (tmp_path / "run/model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()


def test_code_that_a_folder_names_is_never_run(call, text_run, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    marker = tmp_path / "marker"
    copy = Path(shutil.copytree(text_run[0], tmp_path / "copy"))
    (copy / SUMS_FILE).unlink()
    (copy / "evil.py").write_text(
        f"import os; os.mkdir({str(marker)!r})\n"
        "class Config: pass\n"
        "class Model: pass\n"
        "class Tokenizer: pass\n"
    )
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate/generate.py").write_text(
        f"import os; os.mkdir({str(marker)!r})\ndef generate(*a, **k): pass\n"
    )
    config, tokens = (
        json.loads((copy / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    names = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    for kind in ("graphformer", "unheard-of"):
        (copy / "config.json").write_text(
            json.dumps({**config, "model_type": kind, "auto_map": names})
        )
        (copy / "tokenizer_config.json").write_text(
            json.dumps({**tokens, "tokenizer_class": "Unheard", "auto_map": names})
        )
        told_or_same(call, ["generate", copy, "the", "--max-new-tokens", "2"], None, None)
        assert not marker.exists()
    code, err = told_or_same(call, ["generate", copy, "the"], None, None)
    assert code == 2 and "cannot be read" in err


def test_every_folder_is_opened_without_its_code():
    """Each from_pretrained of an Auto class, in the package, the examples and the benchmarks."""
    found = 0
    for path in [
        path
        for part in ("graphformer", "examples", "benchmarks")
        for path in (ROOT / part).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False" or "peft" in ast.unparse(
                    node.func
                ), f"{path}:{node.lineno}"
                found += 1
    assert found >= 6
