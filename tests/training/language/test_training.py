"""Training runs: exact evaluation, checkpoints that are checked, resumed runs that equal
uninterrupted ones.
"""

import json
import math
import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import graphformer as gf
from graphformer.datasets import TextDataset, build_tokenizer, embedded_text, encode, split
from graphformer.training import (
    checkpoint_problems,
    evaluate,
    latest_checkpoint,
    model_problems,
    train_language_model,
)

CONTEXT = 13


def make_model(operator="gin", dropout=0.0, vocab_size=256):
    torch.manual_seed(0)
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            vocab_size=vocab_size,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=3,
            operator=operator,
            hidden_dropout=dropout,
            max_position_embeddings=CONTEXT,
        )
    )


def make_data(kind=TextDataset, start=0):
    tokens = encode(build_tokenizer("byte", ""), embedded_text()[start : start + 3000])
    train, validation = split(tokens)
    return kind(train, CONTEXT), TextDataset(validation, CONTEXT, stride=CONTEXT)


def run(folder, model=None, data=None, **changes):
    settings = {
        "steps": 20,
        "batch_size": 3,
        "eval_steps": 10,
        "save_steps": 6,
        "save_total_limit": None,
        "progress": False,
    }
    return train_language_model(
        model or make_model(), *(data or make_data()), folder, **{**settings, **changes}
    )


def losses(result):
    return [
        {k: v for k, v in line.items() if k in ("step", "loss", "eval_loss", "grad_norm")}
        for line in result.history[:-1]
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run, with dropout so that the random state matters."""
    return run(
        tmp_path_factory.mktemp("run") / "whole",
        make_model(dropout=0.2),
        tokenizer=build_tokenizer("byte", ""),
    )


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the run, to break."""
    return Path(shutil.copytree(finished.output_dir, tmp_path / "copy"))


# ---- Evaluation


def test_evaluation_is_the_mean_over_tokens():
    model, (_, validation) = make_model().eval(), make_data()
    total, count = 0.0, 0
    with torch.no_grad():
        for window in validation:
            ids = window["input_ids"]
            log_p = model(ids[None]).logits[0].double().log_softmax(-1)
            total -= sum(float(log_p[i, ids[i + 1]]) for i in range(len(ids) - 1))
            count += len(ids) - 1
    # the last window is a short one
    assert len(validation[len(validation) - 1]["input_ids"]) < CONTEXT + 1
    assert count == len(validation.tokens) - 1
    for batch_size in (1, 7, 100):
        result = evaluate(model.train(), validation, batch_size)
        assert model.training
        assert result.num_tokens == count
        assert result.loss_nats_per_token == pytest.approx(total / count, rel=1e-6)
        assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


def test_evaluate_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(make_model(), make_data()[1], 0)


def test_the_runs_own_evaluation_is_exact(finished):
    again = evaluate(finished.model, make_data()[1], 5)
    assert finished.evaluation.num_tokens == again.num_tokens
    assert finished.evaluation.loss_nats_per_token == pytest.approx(
        again.loss_nats_per_token, rel=1e-6
    )
    evaluated = [line for line in finished.history if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [10, 20]
    assert all(
        line["eval_perplexity"] == pytest.approx(math.exp(line["eval_loss"])) for line in evaluated
    )


# ---- The run


def test_a_run_learns_and_saves(finished):
    logged = [line["loss"] for line in finished.history if "loss" in line]
    assert finished.train_loss == logged[-1] < logged[0]
    assert finished.steps == 20 and finished.resumed_from == 0
    assert model_problems(finished.output_dir) == []
    loaded = gf.GraphformerForCausalLM.from_pretrained(finished.output_dir)
    assert loaded.config.use_cache  # the Trainer turns it off while it trains
    for name, value in finished.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_nano_gpt_schedule_and_decay(tmp_path):
    run(
        tmp_path / "run", steps=40, warmup_steps=10, learning_rate=1e-3, eval_steps=40, save_steps=1
    )
    rates = [
        line["learning_rate"]
        for line in json.loads((tmp_path / "run/checkpoint-40/trainer_state.json").read_text())[
            "log_history"
        ]
        if "learning_rate" in line
    ]
    assert (
        rates[0] < 3e-4 and max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) in (9, 10)
    )
    assert rates[-1] == pytest.approx(1e-4, rel=0.05)
    groups = torch.load(tmp_path / "run/checkpoint-40/optimizer.pt", weights_only=True)[
        "param_groups"
    ]
    assert [(group["weight_decay"], tuple(group["betas"])) for group in groups] == [
        (0.1, (0.9, 0.99)),
        (0.0, (0.9, 0.99)),
    ]


@pytest.mark.parametrize("operator", ["gin", "pna"])
def test_only_matrices_decay(operator):
    from graphformer.training.language.trainer import LanguageTrainer

    model = make_model(operator)
    decays = set(LanguageTrainer.get_decay_parameter_names(None, model))
    for name, parameter in model.named_parameters():
        is_matrix = (
            name.rsplit(".", 1)[-1] in ("weight", "weight1", "weight2") and "norm" not in name
        )
        assert (name in decays) == is_matrix, (name, parameter.shape)


def test_gradient_checkpointing_changes_nothing_and_bf16_little(tmp_path):
    plain = run(tmp_path / "a", steps=4)
    assert torch.equal(
        run(tmp_path / "b", steps=4, gradient_checkpointing=True).model.lm_head.weight,
        plain.model.lm_head.weight,
    )
    half = run(tmp_path / "c", steps=4, bf16=True)
    assert half.evaluation.loss_nats_per_token != plain.evaluation.loss_nats_per_token
    assert half.evaluation.loss_nats_per_token == pytest.approx(
        plain.evaluation.loss_nats_per_token, rel=0.01
    )


def test_tensorboard_shows_the_exact_loss(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(tmp_path / "run", steps=4, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert events.Scalars("eval/loss")[-1].value == pytest.approx(
        result.evaluation.loss_nats_per_token
    )
    assert events.Scalars("eval/perplexity")[-1].value == pytest.approx(
        result.evaluation.perplexity
    )


def test_tensorboard_has_each_step_of_a_resumed_run_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path / "run", report_to="tensorboard")
    run(tmp_path / "run", report_to="tensorboard", resume=tmp_path / "run/checkpoint-12")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(2, 21, 2))


def test_progress_shows_losses(tmp_path, capsys, monkeypatch):
    run(tmp_path / "run", steps=4, progress=True)
    out, err = capsys.readouterr()
    assert "step 4: validation loss" in out and "4/4" not in err  # no bar in a pipe
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(tmp_path / "other", steps=4, progress=True)
    out, err = capsys.readouterr()
    assert "step 4: validation loss" in out and "4/4" in err and "loss=" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"save_steps": 0}, "save_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"warmup_steps": 20}, "warmup_steps must be at least 0 and below steps=20, got 20"),
        ({"min_lr_ratio": 2}, "min_lr_ratio must be between 0 and 1, got 2"),
        ({"report_to": "wandb"}, "report_to must be 'tensorboard' or 'none', got 'wandb'"),
    ],
)
def test_arguments_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_too_small_a_vocabulary(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"train_dataset holds token 12\d, but the model has vocab_size=100; "
        r".*len\(tokenizer\)",
    ):
        run(tmp_path / "run", make_model(vocab_size=100))


def test_a_diverged_run_stops(tmp_path):
    model = make_model()
    model.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(
        ValueError,
        match=r"learning_rate=0.001: .* NaN or infinite .* at step \d, .* use a smaller "
        r"learning_rate",
    ):
        run(tmp_path / "run", model)
    late = make_model()
    # the first update spoils what later layers do not read
    late.lm_head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(
        ValueError,
        match=r"learning_rate=0.001: .*, training has diverged; use a smaller learning_rate",
    ):
        run(tmp_path / "late", late)


def test_nothing_is_written_over(folder, tmp_path):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match="is not empty, and nothing in it is written over; name another folder"
    ):
        run(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no run to resume \(no run.json\)"):
        run(tmp_path / "mine", resume=True)
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run(tmp_path / "mine/thesis.txt")


# ---- Resuming


class KilledAt(TextDataset):
    """The operating system ends the process while it asks for its n-th window."""

    left = 50

    def __getitem__(self, index):
        KilledAt.left -= 1
        if not KilledAt.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(finished, tmp_path, interpreters):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
        "import tests.training.language.test_training as t; "
        "t.run(sys.argv[1], t.make_model(dropout=0.2), t.make_data(t.KilledAt))"
    )
    ended, _, err = interpreters(code, tmp_path / "run")
    assert ended == -signal.SIGKILL, err[-2000:]
    assert not (tmp_path / "run/model.safetensors").exists()
    resumed = run(tmp_path / "run", make_model(dropout=0.2), resume=True)
    assert resumed.resumed_from == 12 and resumed.steps == 20
    assert losses(resumed) == losses(finished)
    for name, value in finished.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert resumed.evaluation == finished.evaluation


def test_a_finished_run_takes_no_further_step(finished, folder):
    again = run(folder, make_model(dropout=0.2), resume=True)
    assert again.steps == again.resumed_from == 20 and again.evaluation == finished.evaluation
    for name, value in finished.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_resume_before_the_first_checkpoint_starts_again(finished, folder):
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    again = run(folder, make_model(dropout=0.2), resume=True)
    assert again.resumed_from == 0 and losses(again) == losses(finished)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.002}, "learning_rate was 0.001, now it is 0.002"),
        ({"steps": 30, "warmup_steps": 3}, "started with other settings: warmup_steps was 2, now"),
        ({"seed": 1}, "seed was 0, now it is 1"),
        ({"model": ("sum",)}, "model.operator was 'gin', now it is 'sum'"),
        ({"data": (TextDataset, 5)}, "train.tokens was '.*', now it is '.*'; validation.tokens"),
        ({"context": 11}, "train.context_length was 13, now it is 11"),
        ({"settings": {"tokenizer": "bpe"}}, "tokenizer was 'byte', now it is 'bpe'"),
    ],
)
def test_other_settings_are_refused(folder, changes, named):
    settings = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({"tokenizer": "byte", **settings}))
    if "context" in changes:
        train, validation = make_data()
        context = changes.pop("context")
        changes["data"] = (
            TextDataset(train.tokens, context),
            TextDataset(validation.tokens, context, context),
        )
    elif "data" in changes:
        changes = {"data": make_data(*changes["data"])}
    model = make_model(*changes.pop("model", ("gin",)), dropout=0.2)
    with pytest.raises(ValueError, match=named) as error:
        run(folder, model, resume=True, **changes)
    assert "Give the same settings, or start a new run" in str(error.value)


# ---- Checkpoints


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path):
    """One wrong byte in the middle of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    name, extra = (int.from_bytes(data[member.header_offset + i :][:2], "little") for i in (26, 28))
    data[member.header_offset + 30 + name + extra + member.file_size // 2] ^= 255
    path.write_bytes(data)


def scramble(path):
    """What a disk may do: damage everywhere but at the end."""
    data = path.read_bytes()
    path.write_bytes(bytes(255 - byte for byte in data[:-200]) + data[-200:])


@pytest.mark.parametrize(
    ("damage", "name", "problem"),
    [
        (cut, "model.safetensors", "model.safetensors ("),
        (cut, "optimizer.pt", "optimizer.pt ("),
        (flip, "optimizer.pt", "optimizer.pt is damaged: wrong checksum of "),
        (scramble, "optimizer.pt", "optimizer.pt ("),
        (cut, "scheduler.pt", "scheduler.pt ("),
        (cut, "rng_state.pth", "rng_state.pth ("),
        (cut, "trainer_state.json", "trainer_state.json is cut short or damaged"),
        (cut, "config.json", "config.json is cut short or damaged"),
        (cut, "tokenizer.json", "tokenizer.json is cut short or damaged"),
        *(
            (Path.unlink, name, f"{name} is missing")
            for name in (
                "model.safetensors",
                "optimizer.pt",
                "scheduler.pt",
                "rng_state.pth",
                "trainer_state.json",
            )
        ),
    ],
)
def test_damage_is_found_and_passed_over(folder, damage, name, problem):
    newest = folder / "checkpoint-20"
    assert checkpoint_problems(newest) == [] and latest_checkpoint(folder) == newest
    damage(newest / name)
    problems = checkpoint_problems(newest)
    assert len(problems) == 1 and problems[0].startswith(problem), problems
    with pytest.warns(
        UserWarning,
        match="passed over the broken checkpoint .*checkpoint-20: .*resuming from .*checkpoint-18",
    ) as seen:
        assert latest_checkpoint(folder) == folder / "checkpoint-18"
    assert problems[0] in str(seen[0].message)


def test_a_checkpoint_of_another_step_and_of_fewer_processes(folder):
    (folder / "checkpoint-18").rename(folder / "checkpoint-19")
    assert checkpoint_problems(folder / "checkpoint-19") == ["trainer_state.json is of step 18"]
    assert checkpoint_problems(folder / "checkpoint-20", 2) == [
        "rng_state_0.pth is missing",
        "rng_state_1.pth is missing",
    ]


def test_a_broken_newest_checkpoint_changes_no_result(finished, folder):
    cut(folder / "checkpoint-20/optimizer.pt")
    with pytest.warns(UserWarning, match="passed over"):
        again = run(folder, make_model(dropout=0.2), resume=True)
    assert again.resumed_from == 18 and losses(again) == losses(finished)
    assert checkpoint_problems(folder / "checkpoint-20") == []


def test_no_complete_checkpoint_is_an_error(folder):
    for checkpoint in folder.glob("checkpoint-*"):
        cut(checkpoint / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"no checkpoint in .* is complete \(.*checkpoint-20: model.safetensors "
        r".*checkpoint-6: ",
    ):
        run(folder, make_model(dropout=0.2), resume=True)
    with pytest.raises(ValueError, match="Remove those folders and start again"):
        latest_checkpoint(folder)
    assert latest_checkpoint(folder / "checkpoint-6") is None  # nothing there that could be broken


def test_a_named_checkpoint(finished, folder):
    again = run(folder, make_model(dropout=0.2), resume=folder / "checkpoint-6")
    assert again.resumed_from == 6 and losses(again) == losses(finished)
    cut(folder / "checkpoint-12/scheduler.pt")
    with pytest.raises(
        ValueError, match=r"resume: the checkpoint .*checkpoint-12' is not complete \(scheduler.pt"
    ):
        run(folder, make_model(dropout=0.2), resume=folder / "checkpoint-12")
    with pytest.raises(
        ValueError, match=r"checkpoint-7' is not complete \(there is no such folder"
    ):
        run(folder, make_model(dropout=0.2), resume=str(folder / "checkpoint-7"))
