"""``adapter_names``: an adapter for each row of a batch, as PEFT has it for LoRA."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import graphformer as gf
from tests.adapter_models import SEQ2SEQ, feed, make

NAMES = ["y", "__base__", "x", "y", "z"]
GENERATE = {"max_new_tokens": 9, "min_new_tokens": 9, "pad_token_id": 0, "do_sample": False}


def tokens(batch: int = 5, length: int = 7) -> Tensor:
    return torch.randint(4, 61, (batch, length))


def adapted(name: str = "llama", task: str | None = "CAUSAL_LM") -> peft.PeftModel:
    """Three adapters that differ in graph, width, depth and layers."""
    config = {"task_type": task, "hidden_dim": 7}
    model = peft.get_peft_model(make(name), gf.SparseGINConfig(**config), adapter_name="x")
    model.add_adapter(
        "y", gf.SparseGINConfig(**{**config, "threshold": 0.05, "graph": "per_head", "depth": 2})
    )
    model.add_adapter(
        "z", gf.SparseGINConfig(**{**config, "hidden_dim": 5, "layers_to_transform": [1]})
    )
    return drawn(model)


def drawn(model: peft.PeftModel) -> peft.PeftModel:
    """As if it had been trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "sparsegin" in key or "modules_to_save" in key:
                parameter.normal_(std=0.5)
    return model.eval()


@torch.no_grad()
def alone(model: peft.PeftModel, name: str, run: Any) -> Any:
    if name == "__base__":
        with model.disable_adapter():
            return run()
    model.set_adapter(name)
    return run()


@torch.no_grad()
def logits(model: nn.Module, **inputs: Any) -> Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize(
    ("name", "padded"),
    [
        ("llama", False),
        ("llama", True),
        ("opt", False),
        ("bert", True),
        ("t5", False),
        ("vit", False),
    ],
)
def test_each_row_gets_its_own_adapter(name: str, padded: bool) -> None:
    model = adapted(name, {"bert": None, "vit": None, "t5": "SEQ_2_SEQ_LM"}.get(name, "CAUSAL_LM"))
    ids = tokens(length=9)
    mask = torch.ones_like(ids)
    mask[2, :3] = 0
    inputs = feed(name, ids, mask if padded else None)
    got = logits(model, **inputs, adapter_names=NAMES)
    want = torch.stack(
        [alone(model, one, lambda: logits(model, **inputs))[row] for row, one in enumerate(NAMES)]
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    active = alone(model, "x", lambda: logits(model, **inputs))
    assert not torch.allclose(got, active, atol=1e-3)
    logits(model, **inputs, adapter_names=NAMES)
    assert torch.equal(logits(model, **inputs), active)  # nothing stays behind


BEAMS = {"num_beams": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llama", {}),
        ("llama", {"use_cache": False}),
        ("llama", BEAMS),
        ("llama", {**BEAMS, "num_return_sequences": 2}),
        ("llama", {"prompt_lookup_num_tokens": 2}),
        ("llama", {"generation_config": "beams"}),
        ("mistral", BEAMS),
        ("t5", {}),
        ("t5", BEAMS),
    ],
)
def test_generating_with_an_adapter_for_each_row(name: str, how: dict[str, Any]) -> None:
    model = adapted(name, "SEQ_2_SEQ_LM" if name in SEQ2SEQ else "CAUSAL_LM")
    ids = tokens()
    names = NAMES[:1] if "prompt_lookup_num_tokens" in how else NAMES
    ids = ids[: len(names)]
    mask = torch.ones_like(ids)
    if name != "t5":
        mask[-1, :2] = 0
    how = dict(how)
    if how.pop("generation_config", None):
        model.generation_config.num_beams = 2
    inputs = {"input_ids": ids, "attention_mask": mask, **how, **GENERATE}
    got = model.generate(**inputs, adapter_names=names)
    times = len(got) // len(names)
    for row, one in enumerate(names):
        want = alone(model, one, lambda: model.generate(**inputs))
        assert torch.equal(
            got[row * times : (row + 1) * times], want[row * times : (row + 1) * times]
        ), (row, one)


def test_rows_sampled_several_times_keep_their_adapter() -> None:
    model, ids = adapted(), tokens(2)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        **GENERATE,
        "do_sample": True,
        "num_return_sequences": 3,
    }
    torch.manual_seed(3)
    got = model.generate(**inputs, adapter_names=["y", "x"])
    for name, rows in (("y", slice(0, 3)), ("x", slice(3, 6))):
        model.set_adapter(name)
        torch.manual_seed(3)
        first = model.generate(**{**inputs, "max_new_tokens": 1, "min_new_tokens": 1})
        assert torch.equal(got[rows, : first.shape[1]], first[rows])


def test_trained_heads_follow_the_rows() -> None:
    import transformers as tf

    from tests.adapter_models import DECODER

    torch.manual_seed(0)
    base = tf.LlamaForSequenceClassification(tf.LlamaConfig(**DECODER, num_labels=3)).eval()
    model = peft.get_peft_model(
        base, gf.SparseGINConfig(task_type="SEQ_CLS", hidden_dim=7), adapter_name="x"
    )
    model.add_adapter("y", gf.SparseGINConfig(task_type="SEQ_CLS", hidden_dim=7))
    drawn(model)
    ids, names = tokens(3), ["y", "x", "__base__"]
    got = logits(model, input_ids=ids, adapter_names=names)
    want = torch.stack(
        [
            alone(model, one, lambda: logits(model, input_ids=ids))[row]
            for row, one in enumerate(names)
        ]
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_a_cache_remembers_which_rows_an_adapter_saw() -> None:
    model, ids = adapted(), tokens(3, 8)
    names = ["y", "__base__", "x"]
    want = logits(model, input_ids=ids, use_cache=False, adapter_names=names)

    def filled(names: list[str]) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        logits(model, input_ids=ids[:, :6], past_key_values=cache, adapter_names=names)
        return cache

    cache = filled(names)
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    got = logits(
        model,
        input_ids=ids[[2, 0, 1], 6:],
        past_key_values=cache,
        adapter_names=["x", "y", "__base__"],
    )
    torch.testing.assert_close(got, want[[2, 0, 1], 6:], atol=1e-5, rtol=1e-5)
    for other in (["y", "y", "x"], ["x", "__base__", "y"]):
        with pytest.raises(
            RuntimeError,
            match=r"did not see the cached tokens of some rows.*Start with a new cache",
        ):
            logits(model, input_ids=ids[:, 6:], past_key_values=filled(names), adapter_names=other)
    model.set_adapter("y")
    with pytest.raises(
        RuntimeError, match="adapter 'y' did not see the cached tokens of some rows"
    ):
        logits(model, input_ids=ids[:, 6:], past_key_values=filled(names))


def test_names_that_do_not_fit_are_refused() -> None:
    model, ids = adapted(), tokens(3)
    with pytest.raises(
        ValueError,
        match=r"adapter_names holds 'd', 'e', which is no adapter of this model; it has 'x', 'y', "
        r"'z', '__base__'",
    ):
        model(input_ids=ids, adapter_names=["x", "e", "d"])
    for names in (["x"], ["x", "y"], ["__base__"], ["x"] * 6, []):
        with pytest.raises(
            ValueError,
            match=r"one name for each row of the batch, but it has \d .*and the batch has 3 rows",
        ):
            model(input_ids=ids, adapter_names=names)
    with pytest.raises(ValueError, match="one name for each row"):
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=["x", "y"], **GENERATE
        )
    for names in ("abc", "x", [1, 2, 3]):
        with pytest.raises(TypeError, match="adapter_names must be a list of names"):
            model(input_ids=ids, adapter_names=names)
    with pytest.raises(ValueError, match=r"adapter_names is for inference.*training mode"):
        model.train()(input_ids=ids, adapter_names=["x"] * 3)
    with pytest.raises(ValueError, match="alora_offsets belongs to aLoRA"):
        model.eval()(input_ids=ids, alora_offsets=[1, 2, 3])
    model.set_adapter("x")
    with model.disable_adapter():  # as for LoRA: the base model, whatever the names
        off = logits(model, input_ids=ids, adapter_names=["x", "y", "z"])
        assert torch.equal(off, logits(model, input_ids=ids))


@pytest.mark.parametrize("form", ["paper", "bottlenecks"])
def test_a_row_whose_adapter_has_no_head_takes_the_models_own(form: str) -> None:
    config = {"task_type": "CAUSAL_LM", "form": form}
    model = peft.get_peft_model(make("llama"), gf.SparseGINConfig(**config), adapter_name="x")
    model.add_adapter("y", gf.SparseGINConfig(**config, modules_to_save=["lm_head"]))
    drawn(model)
    ids, names = tokens(3), ["x", "y", "__base__"]
    want = [alone(model, one, lambda: logits(model, input_ids=ids)) for one in names]
    for active in ("x", "y"):
        model.set_adapter(active)
        got = logits(model, input_ids=ids, adapter_names=names)
        torch.testing.assert_close(got, torch.stack([want[i][i] for i in range(3)]))
