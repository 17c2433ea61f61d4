"""A look inside an adapter: scales over training, edges, and adapters of equal size."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import graphformer as gf

peft = pytest.importorskip("peft")

from graphformer.adapters import LambdaRecorder, count_trainable, edges_per_token, scales  # noqa: E402
from graphformer.inspect import plot_lambda  # noqa: E402

pytestmark = pytest.mark.usefixtures("float64")

IDS = torch.arange(2 * 13).view(2, 13) % 23


def base(**changes: object) -> LlamaForCausalLM:
    sizes = dict(
        vocab_size=23,
        hidden_size=30,
        intermediate_size=35,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=5,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 30
    return model


def adapted(**settings: object) -> torch.nn.Module:
    return peft.get_peft_model(
        base(), gf.SparseGINConfig(task_type="CAUSAL_LM", hidden_dim=7, **settings)
    )


class Windows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(11) * (index % 5 + 1)) % 23
        return {"input_ids": ids, "labels": ids}


def test_scales_are_kept_while_training(tmp_path: Path) -> None:
    model, recorder = adapted(scale_start=0.1, scale_end=0.5), LambdaRecorder(every=2)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=5,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=Windows(), callbacks=[recorder]).train()
    history = recorder.history
    assert history["steps"] == [0, 2, 4, 5] and history["layers"] == [
        f"model.layers.{i}.self_attn" for i in range(3)
    ]
    assert history["values"][0] == pytest.approx([0.1, 0.3, 0.5])
    assert (
        history["values"][-1] == pytest.approx(list(scales(model).values()), abs=1e-6)
        and history["values"][-1] != history["values"][0]
    )
    figure = plot_lambda(history)
    over_time, over_layers = figure.axes
    assert [line.get_ydata()[-1] for line in over_time.lines] == history["values"][-1]
    assert list(over_layers.lines[1].get_ydata()) == history["values"][-1]
    figure.savefig(tmp_path / "lambda.png")


def test_a_model_without_adapter_records_nothing() -> None:
    recorder = LambdaRecorder()
    recorder._record(base(), 0)
    assert recorder.history["steps"] == []
    with pytest.raises(ValueError, match="history holds no steps"):
        plot_lambda(recorder.history)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no Sparse-GIN adapter"):
        scales(base())
    with pytest.raises(ValueError, match="no adapter 'other'; it has default"):
        scales(adapted(), "other")
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        LambdaRecorder(every=0)


@pytest.mark.parametrize("direction", ["key_to_query", "self"])
def test_edges_are_those_of_the_attention_maps(direction: str) -> None:
    model = adapted(direction=direction)
    eager = base()
    eager.set_attn_implementation("eager")
    maps = eager(IDS, output_attentions=True).attentions
    found = edges_per_token(model, input_ids=IDS)
    assert list(found) == [
        f"base_model.model.model.layers.{i}.self_attn".removeprefix("base_model.model.")
        for i in range(3)
    ]
    for edges, attention in zip(found.values(), maps, strict=True):
        kept = attention.sum(1).clamp(max=1) > 0.2
        if direction == "self":
            kept = kept & torch.eye(13, dtype=torch.bool)
        assert edges == pytest.approx(kept.sum().item() / (2 * 13))
    handlers = [
        module
        for module in model.modules()
        if len(module.__dict__.get("graphformer_listeners", [])) > 1
    ]
    assert not handlers  # the counters are gone


def test_edges_fall_with_the_threshold() -> None:
    few, many = (
        sum(edges_per_token(adapted(threshold=t), input_ids=IDS).values()) for t in (0.9, 0.05)
    )
    assert 0 < few < many


@pytest.mark.parametrize(
    "changes",
    [{}, {"depth": 2}, {"graph": "per_head"}, {"mlp_ratio": None}, {"mlp_ratio": 1.5}],
    ids=str,
)
def test_adapters_of_equal_size(changes: dict) -> None:
    model = base(hidden_size=60)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=13, target_modules="all-linear")
    config = gf.match_parameters(
        model, lora, gf.SparseGINConfig(task_type="CAUSAL_LM", **changes), tolerance=0.05
    )
    wanted, got = count_trainable(model, lora), count_trainable(model, config)
    assert abs(got - wanted) <= 0.05 * wanted
    wrapped = peft.get_peft_model(base(hidden_size=60), config)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == got
    assert all(value == getattr(config, name) for name, value in changes.items())
    # The model that was counted on is as it was.
    assert all(
        torch.equal(parameter, before[name]) and parameter.requires_grad
        for name, parameter in model.named_parameters()
    )
    assert type(model.model.layers[0].self_attn.q_proj) is torch.nn.Linear


def test_sizes_that_cannot_be_met() -> None:
    model = base()
    with pytest.raises(
        ValueError, match=r"no hidden_dim gives .* parameters within 0%: the nearest"
    ):
        gf.match_parameters(
            model,
            peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules="all-linear"),
            tolerance=0.0001,
        )
    with pytest.raises(
        ValueError, match=r"model has an adapter already \(default\): give the base model"
    ):
        gf.match_parameters(
            peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")),
            peft.LoraConfig(),
        )


@pytest.mark.slow
@pytest.mark.float32
def test_the_example_runs(data_dir: Path, tmp_path: Path, run_example: Callable[..., str]) -> None:
    model = data_dir.parent / "models" / "stories260K"
    if not model.is_dir():
        pytest.skip("stories260K is not here")
    (tmp_path / "text.txt").write_text(
        (data_dir / "tinyshakespeare" / "input.txt").read_text()[:30_000]
    )
    options = (
        "--model",
        model,
        "--text",
        tmp_path / "text.txt",
        "--steps",
        20,
        "--context",
        64,
        "--output",
        tmp_path / "adapter",
    )
    out = run_example("finetune_llm", *options)
    before, after = (
        float(n)
        for n in re.search(r"perplexity: ([\d.]+) before, ([\d.]+) after 20 steps", out).groups()
    )
    assert after < before and "model.layers.4.self_attn: " in out
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
