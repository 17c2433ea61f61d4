"""What PEFT's documentation leads a user to expect of an adapter, each tried on LoRA and on
both forms of Sparse-GIN alike.

The expectations are those of PEFT's guides and of the docstrings of PeftModel and the tuners. Where
Sparse-GIN cannot do what LoRA does, it says so by name; those are at the end.
"""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import graphformer as gf
from tests.adapter_models import make, transformers_own

KINDS = ("lora", "sparsegin", "bottlenecks")
IDS = torch.arange(4, 18).reshape(2, 7)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def config(kind: str, **settings: Any) -> peft.PeftConfig:
    if kind == "lora":
        return peft.LoraConfig(
            **{"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"], **settings}
        )
    if kind == "bottlenecks":
        form = {
            "form": "bottlenecks",
            "rank": 3,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
        }
        return gf.SparseGINConfig(**{"task_type": "CAUSAL_LM", **form, **settings})
    return gf.SparseGINConfig(
        **{"task_type": "CAUSAL_LM", "hidden_dim": 5, "threshold": 0.1, **settings}
    )


def build(
    kind: str, base: nn.Module | None = None, names: tuple[str, ...] = ("default",), **settings: Any
) -> peft.PeftModel:
    model = peft.get_peft_model(
        make("llama") if base is None else base, config(kind, **settings), adapter_name=names[0]
    )
    for name in names[1:]:
        model.add_adapter(name, config(kind))
    return drawn(model)


def drawn(model: nn.Module, seed: int = 1) -> Any:
    """As if it had been trained."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "sparsegin_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    return model.eval()


@torch.no_grad()
def run(model: nn.Module, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    return model(input_ids=ids, **kwargs).logits


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# ---------------------------------------------------------------------- wrapping


def test_only_the_adapter_is_trained(kind: str) -> None:
    model = build(kind)
    assert trained(model) and all(
        "lora_" in name or "sparsegin_" in name for name in trained(model)
    )
    count, total = model.get_nb_trainable_parameters()
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad) and total == sum(
        p.numel() for p in model.parameters()
    )


def test_a_fresh_adapter_changes_nothing(kind: str) -> None:
    base = make("llama")
    before = run(base)
    assert torch.equal(run(peft.get_peft_model(base, config(kind)).eval()), before)


def test_the_base_model_is_changed_in_place_and_given_back(kind: str) -> None:
    base = make("llama")
    model = build(kind, base)
    assert model.get_base_model() is base and torch.equal(run(base), run(model))


def test_the_class_follows_the_task(kind: str) -> None:
    assert type(build(kind)) is peft.PeftModelForCausalLM
    assert type(peft.get_peft_model(make("llama"), config(kind, task_type=None))) is peft.PeftModel
    assert type(
        peft.get_peft_model(
            make("bert"), config(kind, task_type="FEATURE_EXTRACTION", target_modules=None)
        )
    ).__name__.endswith("Extraction")


def test_wrapping_twice_is_told(kind: str) -> None:
    """LoRA warns and stacks; Sparse-GIN refuses and names what to call: two sets of hooks would
    read one attention.
    """
    model = build(kind)
    before = run(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kind == "lora":
            peft.get_peft_model(model, config(kind), adapter_name="second")
            assert any(
                "second time" in str(one.message) or "multiple adapters" in str(one.message)
                for one in caught
            )
        else:
            with pytest.raises(
                ValueError,
                match=r"has Sparse-GIN adapters already: add another one with add_adapter or "
                r"load_adapter",
            ):
                peft.get_peft_model(model, config(kind), adapter_name="second")
            with pytest.raises(ValueError, match="has Sparse-GIN adapters already"):
                peft.get_peft_model(model.get_base_model(), config(kind))
            assert torch.equal(run(model), before)


def test_inject_adapter_in_model_gives_the_model_itself(kind: str) -> None:
    base = make("llama")
    model = drawn(peft.inject_adapter_in_model(config(kind), base, adapter_name="x"))
    assert model is base and trained(model)
    assert not torch.equal(run(model), run(make("llama")))


@transformers_own
def test_transformers_own_methods(kind: str) -> None:
    base = make("llama")
    before = run(base)
    base.add_adapter(config(kind), adapter_name="x")
    drawn(base)
    want = run(base)
    assert not torch.equal(want, before) and base.active_adapters() == ["x"]
    base.disable_adapters()
    assert torch.equal(run(base), before)
    base.enable_adapters()
    assert torch.equal(run(base), want)
    base.delete_adapter("x")
    assert torch.equal(run(base), before)


# ---------------------------------------------------------------------- several


def test_set_adapter_chooses_one(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    out = {}
    for name in ("x", "y", "x"):
        model.set_adapter(name)
        assert model.active_adapter == name and model.active_adapters == [name]
        out.setdefault(name, run(model))
        assert torch.equal(run(model), out[name])
        assert trained(model) and all(f".{name}" in key for key in trained(model))
    assert not torch.equal(out["x"], out["y"])


def test_set_adapter_for_inference(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    model.set_adapter("y", inference_mode=True)
    assert not trained(model)


def test_an_unknown_name_is_refused(kind: str) -> None:
    model = build(kind)
    before = run(model)
    for attempt in (
        lambda: model.set_adapter("nobody"),
        lambda: model.delete_adapter("nobody"),
        lambda: model.save_pretrained("unused", selected_adapters=["nobody"]),
        lambda: model.load_adapter("no such folder", "y"),
        lambda: run(model, adapter_names=["nobody", "default"]),
    ):
        with pytest.raises((ValueError, KeyError)):
            attempt()
    assert torch.equal(run(model), before) and not Path("unused").exists()


def test_an_unknown_name_on_the_tuner_is_refused(kind: str) -> None:
    """LoRA leaves it out."""
    model = build(kind)
    before = run(model)
    if kind == "lora":
        model.base_model.set_adapter("nobody")
        assert torch.equal(run(model), run(make("llama")))
        return
    for names in ("nobody", ["default", "nobody"]):
        with pytest.raises(ValueError, match=r"set_adapter names 'nobody'.* it has 'default'"):
            model.base_model.set_adapter(names)
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("wrapped", [["q_proj"], ["v_proj"], ["down_proj"], "all-linear"])
@pytest.mark.parametrize("chosen", [["q_proj", "v_proj", "down_proj"], None])
def test_bottlenecks_stand_at_layers_that_lora_has_wrapped(wrapped: Any, chosen: Any) -> None:
    base = make("llama")
    lora = drawn(peft.get_peft_model(base, config("lora", target_modules=wrapped)))
    before = run(lora)
    model = peft.get_peft_model(base, config("bottlenecks", target_modules=chosen), "b").eval()
    assert torch.equal(run(model), before)
    drawn(model)
    # the same weights, and LoRA put in last
    other = make("llama")
    peft.get_peft_model(other, config("bottlenecks", target_modules=chosen), "b")
    last = peft.get_peft_model(other, config("lora", target_modules=wrapped)).eval()
    plain = {key.replace(".base_layer", ""): value for key, value in model.state_dict().items()}
    last.load_state_dict({key: plain[key.replace(".base_layer", "")] for key in last.state_dict()})
    torch.testing.assert_close(run(last), run(model))
    assert not torch.equal(run(model), before)
    count = sum("sparsegin_up" in key for key, _ in model.named_parameters())
    assert count == sum("sparsegin_up" in key for key, _ in last.named_parameters()) > 0


def test_adding_one_leaves_the_active_one(kind: str) -> None:
    model = build(kind)
    before, was = run(model), trained(model)
    model.add_adapter("y", config(kind))
    assert (
        torch.equal(run(model.eval()), before)
        and model.active_adapters == ["default"]
        and trained(model) == was
    )


def test_a_name_that_is_taken(kind: str) -> None:
    model = build(kind)
    before = run(model)
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("default", config(kind))
    assert torch.equal(run(model), before)


def test_several_at_once_on_the_tuner(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    model.base_model.set_adapter(["x", "y"])
    both = run(model)
    assert model.active_adapters == ["x", "y"]
    for name in ("x", "y"):
        model.set_adapter(name)
        assert not torch.equal(run(model), both)


# ---------------------------------------------------------------------- deleting


def test_deleting_another_one(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    before = run(model)
    model.delete_adapter("y")
    assert list(model.peft_config) == ["x"] and torch.equal(run(model), before)
    assert not any(".y" in key for key in model.state_dict())


def test_deleting_the_active_one_falls_back_to_the_first_left(kind: str) -> None:
    model = build(kind, names=("x", "y", "z"))
    model.set_adapter("y")
    want = run(model)
    model.set_adapter("x")
    model.delete_adapter("x")
    assert model.active_adapters == ["y"] and torch.equal(run(model), want)


def test_deleting_one_of_two_active_ones(kind: str) -> None:
    model = build(kind, names=("x", "y", "z"))
    model.set_adapter("y")
    want = run(model)
    model.base_model.set_adapter(["x", "y"])
    model.delete_adapter("x")
    assert model.active_adapters == ["y"] and torch.equal(run(model), want)


def test_deleting_the_only_one_leaves_the_base(kind: str) -> None:
    """On the tuner and the base; PeftModel itself looks for the adapter that it had, whatever the
    method, until another is set.
    """
    base = make("llama")
    model = build(kind, base)
    model.delete_adapter("default")
    assert torch.equal(run(base), run(make("llama")))
    assert torch.equal(run(model.base_model), run(make("llama"))) and model.active_adapters == []
    assert not any("lora_" in key or "sparsegin_" in key for key in model.state_dict())


def test_one_can_be_added_after_the_only_one_was_deleted(kind: str) -> None:
    model = build(kind)
    want = run(model)
    state = peft.get_peft_model_state_dict(model)
    model.delete_adapter("default")
    model.add_adapter("default", config(kind))
    model.set_adapter("default")
    peft.set_peft_model_state_dict(model, state)
    assert torch.equal(run(model.eval()), want)


def test_deleting_takes_no_layer_of_another_one(kind: str) -> None:
    """Adapters in different layers: the one that is left is the same in all of them."""
    model = build(kind, names=("x",), layers_to_transform=[1])
    model.add_adapter("y", config(kind))
    model.add_adapter("z", config(kind, layers_to_transform=[0, 2]))
    drawn(model)
    model.set_adapter("y")
    model.delete_adapter("y")
    got = run(model)
    if kind == "sparsegin":  # LoRA's layers choose for themselves: x in one, z in the others
        assert model.active_adapters == ["x"]
        model.set_adapter("x")
        assert torch.equal(run(model), got)


# ---------------------------------------------------------------------- off and on


def test_disable_adapter_is_the_base_and_ends(kind: str) -> None:
    model = build(kind)
    want = run(model)
    with model.disable_adapter():
        assert torch.equal(run(model), run(make("llama")))
        with model.disable_adapter():
            assert torch.equal(run(model), run(make("llama")))
        assert torch.equal(run(model), run(make("llama")))
    assert torch.equal(run(model), want)
    with pytest.raises(RuntimeError, match="inside"), model.disable_adapter():
        raise RuntimeError("inside")
    assert torch.equal(run(model), want)


def test_disabling_holds_in_other_threads_too(kind: str) -> None:
    """PEFT's switch is the model's, not the thread's."""
    model, seen = build(kind), []
    with model.disable_adapter():
        thread = threading.Thread(target=lambda: seen.append(run(model)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], run(make("llama")))


def test_switches_of_the_tuner(kind: str) -> None:
    model = build(kind)
    want = run(model)
    model.base_model.disable_adapter_layers()
    assert torch.equal(run(model), run(make("llama"))) and model.get_model_status().enabled is False
    model.base_model.enable_adapter_layers()
    assert torch.equal(run(model), want)


def test_unload_gives_the_base_back(kind: str) -> None:
    base = make("llama")
    names = [name for name, _ in base.named_modules()]
    model = build(kind, base)
    again = model.unload()
    assert again is base and [name for name, _ in again.named_modules()] == names
    assert torch.equal(run(again), run(make("llama"))) and not hasattr(again, "peft_config")
    # which can be wrapped again
    assert not torch.equal(run(build(kind, again)), run(make("llama")))


# ---------------------------------------------------------------------- training


def test_set_requires_grad(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    was = trained(model)
    model.set_requires_grad("x", False)
    assert trained(model) == set()
    model.set_requires_grad(["x", "y"], True)
    assert trained(model) == was | {name.replace(".x", ".y") for name in was}


def test_a_step_changes_the_active_adapter_alone(kind: str) -> None:
    model = build(kind, names=("x", "y")).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(".x" in name for name in changed)


def test_inference_mode_trains_nothing(kind: str) -> None:
    assert not trained(build(kind, inference_mode=True))


def test_modules_to_save_are_trained_and_saved(kind: str, tmp_path: Path) -> None:
    model = build(kind, modules_to_save=["lm_head"])
    assert any("lm_head" in name for name in trained(model))
    want = run(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(peft.PeftModel.from_pretrained(make("llama"), tmp_path).eval()), want)
    with model.disable_adapter():
        assert torch.equal(run(model), run(make("llama")))


def test_gradient_checkpointing_and_input_grads(kind: str) -> None:
    model = build(kind).train()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# ---------------------------------------------------------------------- looking


def test_layer_and_model_status(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    layers, whole = model.get_layer_status(), model.get_model_status()
    assert layers and all(
        one.active_adapters == ["x"] and one.available_adapters == ["x", "y"] and one.enabled
        for one in layers
    )
    assert all(
        one.merged_adapters == [] and one.requires_grad == {"x": True, "y": False} for one in layers
    )
    assert (whole.enabled, whole.active_adapters, whole.merged_adapters) == (True, ["x"], [])
    assert whole.requires_grad == {"x": True, "y": False} and whole.available_adapters == ["x", "y"]
    assert whole.trainable_params == model.get_nb_trainable_parameters()[
        0
    ] and whole.num_adapter_layers == len(layers)
    with model.disable_adapter():
        assert model.get_model_status().enabled is False


def test_repr_shows_the_adapter(kind: str) -> None:
    shown = {"lora": "lora.Linear", "sparsegin": "SparseGIN", "bottlenecks": "BottleneckLayer"}
    assert shown[kind] in repr(build(kind))


def test_a_config_is_a_plain_value(kind: str, tmp_path: Path) -> None:
    one = config(kind)
    one.save_pretrained(tmp_path)
    again = peft.PeftConfig.from_pretrained(tmp_path)
    assert (
        type(again) is type(one)
        and again.peft_type == one.peft_type
        and again.task_type == "CAUSAL_LM"
    )
    assert copy.deepcopy(one) == one and pickle.loads(pickle.dumps(one)) == one


# ---------------------------------------------------------------------- saving and loading


def test_saved_and_loaded_it_is_the_same(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    for how in ({}, {"low_cpu_mem_usage": True}, {"adapter_name": "other"}):
        assert torch.equal(
            run(peft.PeftModel.from_pretrained(make("llama"), tmp_path, **how).eval()), run(model)
        )


def test_saved_as_a_pickle(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert torch.equal(
        run(peft.PeftModel.from_pretrained(make("llama"), tmp_path).eval()), run(model)
    )


def test_loaded_to_train_on(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make("llama"), tmp_path, is_trainable=True)
    assert trained(again) == trained(model)
    assert not trained(peft.PeftModel.from_pretrained(make("llama"), tmp_path))


def test_selected_adapters_alone_are_saved(kind: str, tmp_path: Path) -> None:
    model = build(kind, names=("x", "y", "z"))
    model.save_pretrained(tmp_path, selected_adapters=["y"])
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"y"}
    model.set_adapter("y")
    assert torch.equal(
        run(peft.PeftModel.from_pretrained(make("llama"), tmp_path / "y").eval()), run(model)
    )


def test_load_adapter_under_another_name(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    want = run(model)
    model.save_pretrained(tmp_path)
    other = build(kind, names=("x",))
    other.add_adapter("y", config(kind))
    before = run(other)
    result = other.load_adapter(tmp_path, "renamed")
    assert not result.unexpected_keys and not [
        key for key in result.missing_keys if "renamed" in key
    ]
    assert torch.equal(run(other), before)  # the active one stays
    other.set_adapter("renamed")
    assert torch.equal(run(other.eval()), want)


def test_state_dict_has_no_adapter_name_and_can_be_set(kind: str) -> None:
    model = build(kind, names=("x",))
    state = peft.get_peft_model_state_dict(model, adapter_name="x")
    assert state and not any(".x" in key for key in state)
    other = drawn(build(kind, names=("y",)), seed=2)
    assert not torch.equal(run(other), run(model))
    result = peft.set_peft_model_state_dict(other, state, adapter_name="y")
    assert not result.unexpected_keys and torch.equal(run(other), run(model))


@pytest.mark.parametrize("form", ["sparsegin", "bottlenecks"])
def test_a_weight_without_a_place_is_told(form: str, tmp_path: Path) -> None:
    build(form).save_pretrained(tmp_path)
    smaller = make("llama")
    smaller.model.layers = smaller.model.layers[:2]
    with pytest.warns(UserWarning, match=r"have no place in this model .*layers\.2\..* among them"):
        peft.PeftModel.from_pretrained(smaller, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        peft.PeftModel.from_pretrained(make("llama"), tmp_path)


def test_a_missing_weight_is_told(kind: str) -> None:
    model = build(kind)
    state = peft.get_peft_model_state_dict(model)
    gone = next(iter(state))
    result = peft.set_peft_model_state_dict(
        model, {key: value for key, value in state.items() if key != gone}
    )
    assert any("lora_" in key or "sparsegin_" in key for key in result.missing_keys)


def test_deepcopy_pickle_and_torch_save(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    want = run(model)
    torch.save(model, tmp_path / "model.pt")
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ):
        assert torch.equal(run(twin), want)
        drawn(twin, seed=3)
        # each has its own weights
        assert not torch.equal(run(twin), want) and torch.equal(run(model), want)
        assert torch.equal(run(twin.unload()), run(make("llama")))


def test_it_moves_with_the_model(kind: str) -> None:
    model = build(kind).to(torch.float64)
    assert (
        all(p.dtype == torch.float64 for p in model.parameters())
        and run(model).dtype == torch.float64
    )


def test_half_precision_keeps_the_adapter_in_float32(kind: str) -> None:
    model = build(kind, make("llama").to(torch.bfloat16))
    kinds = {
        p.dtype for name, p in model.named_parameters() if "lora_" in name or "sparsegin_" in name
    }
    assert kinds == {torch.float32} and run(model).isfinite().all()


def test_generate_with_and_without_keywords(kind: str) -> None:
    model = build(kind)
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    got = model.generate(input_ids=IDS, **how)
    assert torch.equal(got, model.generate(IDS, **how)) and torch.equal(
        got, model.base_model.generate(IDS, **how)
    )


def test_adapter_names_for_each_row(kind: str) -> None:
    model = build(kind, names=("x", "y"))
    names, out = ["y", "__base__"], {}
    got = run(model, adapter_names=names)
    model.set_adapter("y")
    out["y"] = run(model)
    with model.disable_adapter():
        out["__base__"] = run(model)
    for row, name in enumerate(names):
        torch.testing.assert_close(got[row], out[name][row], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="training mode"):
        model.train()(input_ids=IDS, adapter_names=names)


# ------------------------------------------------------------------ what Sparse-GIN refuses by name


def test_merging_is_refused() -> None:
    model = build("sparsegin")
    want = run(model)
    for attempt in (
        model.merge_adapter,
        model.unmerge_adapter,
        model.merge_and_unload,
        lambda: model.merge_and_unload(safe_merge=True, adapter_names=["default"]),
    ):
        with pytest.raises(
            ValueError, match=r"cannot be merged into the weights of its model.*unload\(\)"
        ):
            attempt()
    assert torch.equal(run(model), want)


def test_averaging_is_refused() -> None:
    model = build("sparsegin", names=("x", "y"))
    with pytest.raises(
        NotImplementedError,
        match=r"not linear in their weights.*set_adapter\(\[\.\.\.\]\) on the tuner runs several",
    ):
        model.add_weighted_adapter(["x", "y"], [0.5, 0.5], "z")
    assert list(model.peft_config) == ["x", "y"]


def test_mixed_models_are_refused() -> None:
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        peft.get_peft_model(make("llama"), config("sparsegin"), mixed=True)
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        peft.PeftMixedModel(make("llama"), config("sparsegin"))
    mixed = peft.get_peft_model(make("llama"), config("lora"), mixed=True)
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        mixed.add_adapter("x", config("sparsegin"))


def test_hot_swapping_is_refused(tmp_path: Path) -> None:
    from peft.utils.hotswap import hotswap_adapter

    model = build("sparsegin")
    model.save_pretrained(tmp_path)
    want = run(model)
    with pytest.raises((ValueError, NotImplementedError), match=r"(?i)lora"):
        hotswap_adapter(model, tmp_path, adapter_name="default")
    assert torch.equal(run(model), want)


def test_converting_to_lora_is_refused() -> None:
    model = build("sparsegin")
    assert not model.supports_lora_conversion()
    with pytest.raises(TypeError, match="SparseGIN"):
        peft.convert_to_lora(model, rank=2)


def test_continuous_batching_is_refused() -> None:
    model = build("sparsegin")
    want = run(model)
    for name in (
        "generate_batch",
        "init_continuous_batching",
        "continuous_batching_context_manager",
    ):
        with pytest.raises(
            NotImplementedError,
            match=r"no continuous batching \(generate_batch\).*Pad the prompts on the left",
        ):
            getattr(model, name)([[1, 2, 3]])
    assert torch.equal(run(model), want)
