"""The adapter as its users meet it: PEFT's whole life of an adapter, generation, training, errors.
On small Llama models.
"""

import copy
import json
import subprocess
import sys
import warnings

import peft
import pytest
import torch
from torch import nn
from transformers import DynamicCache, Trainer, TrainingArguments

import graphformer as gf
from graphformer.adapters import SparseGINLayer
from tests.adapter_models import make, transformers_own
from tests.conftest import ROOT, _folder

pytestmark = pytest.mark.usefixtures("float64")

BASE = dict(task_type="CAUSAL_LM", hidden_dim=7)


def tokens(batch=2, length=11):
    return torch.randint(4, 61, (batch, length))


def adapted(base=None, **settings):
    return peft.get_peft_model(
        make("llama") if base is None else base, gf.SparseGINConfig(**{**BASE, **settings})
    ).eval()


def shake(model, std=0.5):
    """As if it had been trained: every adapter parameter at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin" in name:
                parameter.normal_(std=std)
    return model


def layers(model):
    return [module for module in model.modules() if isinstance(module, SparseGINLayer)]


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(input_ids=ids, **kwargs).logits


# ---------------------------------------------------------------------- the life of an adapter


def test_it_feels_like_lora(tmp_path):
    base, ids = make("llama"), tokens()
    before = logits(base, ids)
    model = peft.get_peft_model(
        base,
        gf.SparseGINConfig(
            task_type="CAUSAL_LM", hidden_dim=16, threshold=0.2, direction="key_to_query"
        ),
    )
    assert (
        isinstance(model, peft.PeftModelForCausalLM)
        and model.peft_type == "SPARSEGIN" == peft.PeftType.SPARSEGIN
    )
    trainable, total = model.get_nb_trainable_parameters()
    assert 0 < trainable < total
    shake(model).eval()
    want = logits(model, ids)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), before)
    assert torch.equal(logits(model, ids), want) and not torch.equal(want, before)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved and all("sparsegin_" in key and "default" not in key for key in saved)
    assert sum(value.numel() for value in saved.values()) == trainable
    again = peft.PeftModel.from_pretrained(model.unload(), tmp_path)
    assert torch.equal(logits(again.eval(), ids), want)
    assert not any(p.requires_grad for p in again.parameters())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model, an adapter of it, ids and their logits."""
    folder = tmp_path_factory.mktemp("saved")
    base, ids = make("llama"), tokens(1, 5)
    base.save_pretrained(folder / "base")
    model = shake(adapted(type(base).from_pretrained(folder / "base").eval()))
    model.save_pretrained(folder / "adapter")
    torch.save((ids, logits(model, ids)), folder / "want.pt")
    return folder


@pytest.mark.parametrize(
    "imports",
    [
        "import graphformer, peft",
        "import peft, graphformer",
        "import graphformer.adapters, peft",
        "import graphformer; from transformers.utils import is_peft_available; assert "
        "is_peft_available(); import peft",
        # PEFT is imported by a module of transformers that is not whole yet
        "import graphformer; from transformers import TrainerCallback; import peft",
        "import graphformer; from transformers import Trainer; import peft",
    ],
)
def test_a_new_process_reads_a_saved_adapter(saved, imports, interpreter):
    code = f"""
    {imports}
    import torch
    ids, want = torch.load({str(saved / "want.pt")!r})
    model = peft.AutoPeftModelForCausalLM.from_pretrained({str(saved / "adapter")!r}).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, want)
    """
    interpreter(code)


def test_adapters_that_cannot_be_registered_are_told(interpreter):
    interpreter("""
    import sys, warnings
    import graphformer
    sys.modules["graphformer.adapters"] = None  # as with a PEFT that is too old for them
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        import peft
    (said,) = [str(one.message) for one in told if "graphformer" in str(one.message)]
    assert said.startswith("PEFT does not know graphformer's adapters"), said
    assert "pip install --upgrade peft" in said
    """)


def test_several_adapters_on_one_model(tmp_path):
    model, ids = adapted(), tokens()
    model.add_adapter(
        "b", gf.SparseGINConfig(**{**BASE, "threshold": 0.05, "graph": "per_head", "hidden_dim": 3})
    )
    model.add_adapter(
        "c", gf.SparseGINConfig(**BASE, placement="after_mlp", layers_to_transform=[1])
    )
    shake(model)
    out = {}
    for name in ("default", "b", "c"):
        model.set_adapter(name)
        out[name] = logits(model, ids)
        assert all(
            p.requires_grad == (f".{name}." in f"{key}.") for key, p in model.named_parameters()
        )
    assert not torch.equal(out["default"], out["b"]) and not torch.equal(out["b"], out["c"])
    model.save_pretrained(tmp_path)
    fresh = peft.PeftModel.from_pretrained(
        make("llama"), tmp_path / "b", adapter_name="renamed"
    ).eval()
    assert torch.equal(logits(fresh, ids), out["b"])
    fresh.load_adapter(tmp_path / "c", "c")
    fresh.set_adapter("c")
    assert torch.equal(logits(fresh.eval(), ids), out["c"])
    model.delete_adapter("b")
    assert "b" not in model.peft_config and not any(".b." in key for key in model.state_dict())
    model.set_adapter("default")
    assert torch.equal(logits(model, ids), out["default"])


def test_two_active_adapters_add_up():
    """In one layer, before anything nonlinear: their messages are those of each alone."""
    model, ids = adapted(layers_to_transform=[1]), tokens()
    model.add_adapter(
        "b", gf.SparseGINConfig(**{**BASE, "threshold": 0.05}, layers_to_transform=[1])
    )
    shake(model)
    seen = {}

    def record(name):
        return (
            model.get_base_model()
            .model.layers[1]
            .self_attn.register_forward_hook(lambda m, a, out: seen.__setitem__(name, out[0]))
        )

    for name in (["default"], ["b"], ["default", "b"], []):
        model.base_model.set_adapter(name)
        handle = record(len(seen))
        logits(model, ids)
        handle.remove()
    torch.testing.assert_close(
        seen[2] - seen[3], seen[0] + seen[1] - 2 * seen[3], atol=1e-5, rtol=1e-5
    )


def test_it_cannot_be_merged_or_averaged():
    model = adapted()
    for attempt in (model.merge_and_unload, model.merge_adapter, layers(model)[0].merge):
        with pytest.raises(
            ValueError, match=r"depends on the attention graph of the input.*unload\(\)"
        ):
            attempt()
    with pytest.raises(NotImplementedError, match="not linear"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    assert len(layers(model)) == 3


def test_unload_leaves_nothing_behind():
    base, ids = make("llama"), tokens()
    names, state, before = (
        list(dict(base.named_modules())),
        copy.deepcopy(base.state_dict()),
        logits(base, ids),
    )
    model = shake(adapted(base))
    logits(model, ids)
    again = model.unload()
    assert again is base and list(dict(again.named_modules())) == names
    assert torch.equal(logits(again, ids), before) and again.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert not any("_graphformer" in key for module in again.modules() for key in vars(module))
    assert not any(module._forward_pre_hooks for module in again.modules())
    assert len(layers(adapted(again))) == 3  # and it can be adapted again


def test_on_a_model_with_lora(tmp_path):
    """LoRA first, then Sparse-GIN under another name: both train, both are saved, both are switched
    off together.
    """
    base, ids = make("llama"), tokens()
    before = logits(base, ids)
    lora = peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2), base, adapter_name="lora"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT points out that there are two
        model = peft.get_peft_model(lora, gf.SparseGINConfig(**BASE), adapter_name="graph")
    assert torch.equal(logits(model.eval(), ids), before)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in key for key in trained) and any("sparsegin" in key for key in trained)
    shake(model)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.1)
    want = logits(model, ids)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), before)
    model.save_pretrained(tmp_path)
    fresh = peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2),
        make("llama"),
        adapter_name="lora",
    )
    from safetensors.torch import load_file

    peft.set_peft_model_state_dict(
        fresh, load_file(tmp_path / "lora" / "adapter_model.safetensors"), adapter_name="lora"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(
            fresh, tmp_path / "graph", adapter_name="graph"
        ).eval()
    assert torch.equal(logits(again, ids), want)
    assert any("lora_A" in key for key in again.unload().state_dict())  # LoRA stays


def test_lora_inside_of_an_adapted_model_keeps_its_names():
    """Whichever comes first: the base model's parameters have the names that they have without
    Sparse-GIN.
    """
    target = peft.LoraConfig(target_modules=["q_proj", "o_proj"], r=2)
    plain = peft.inject_adapter_in_model(target, make("llama"), adapter_name="lora")
    model = adapted()
    peft.inject_adapter_in_model(target, model.get_base_model(), adapter_name="lora")
    assert set(plain.state_dict()) == {
        key for key in model.get_base_model().state_dict() if "sparsegin" not in key
    }


def test_a_peft_model_in_a_peft_model():
    base, ids = make("llama"), tokens()
    before = logits(base, ids)
    lora = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), adapter_name="lora"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(lora, gf.SparseGINConfig(**BASE), adapter_name="graph").eval()
    assert torch.equal(logits(model, ids), before) and len(layers(model)) == 3
    with pytest.raises(ValueError, match="add_adapter"):
        peft.get_peft_model(model, gf.SparseGINConfig(**BASE), adapter_name="third")
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        peft.get_peft_model(make("llama"), gf.SparseGINConfig(**BASE), mixed=True)


def test_other_ways_to_load(tmp_path):
    model, ids = shake(adapted()), tokens()
    want = logits(model, ids)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(
            peft.PeftModel.from_pretrained(make("llama"), tmp_path, low_cpu_mem_usage=True).eval(),
            ids,
        ),
        want,
    )


@transformers_own
def test_transformers_own_way_to_load(tmp_path):
    model, ids = shake(adapted()), tokens()
    want = logits(model, ids)
    model.save_pretrained(tmp_path)
    base = make("llama")
    base.load_adapter(tmp_path)
    assert torch.equal(logits(base.eval(), ids), want)
    base = make("llama")
    before = logits(base, ids)
    base.add_adapter(gf.SparseGINConfig(hidden_dim=7), adapter_name="own")
    assert torch.equal(logits(base, ids), before)


def test_a_copy_of_the_model_is_its_own():
    model, ids = shake(adapted()), tokens()
    want = logits(model, ids)
    twin = copy.deepcopy(model)
    shake(model, std=0.1)
    assert torch.equal(logits(twin, ids), want)
    logits(twin.unload(), ids)
    assert len(layers(model)) == 3 and not torch.equal(logits(model, ids), want)


def test_which_layers():
    def numbers(**settings):
        return [layer.place.attention.split(".")[2] for layer in layers(adapted(**settings))]

    assert numbers() == ["0", "1", "2"]
    assert numbers(layers_to_transform=[0, 2]) == ["0", "2"]
    assert numbers(layers_to_transform=1, layers_pattern="layers") == ["1"]
    assert numbers(target_modules=r".*\.1\.self_attn") == ["1"]
    assert numbers(target_modules=["layers.2.self_attn"]) == ["2"]
    assert numbers(exclude_modules=["layers.0.self_attn"]) == ["1", "2"]
    with pytest.raises(ValueError, match=r"leave no attention module.*model\.layers\.0\.self_attn"):
        adapted(target_modules=["attention"])


def test_further_modules_are_trained_and_saved(tmp_path):
    model, ids = adapted(modules_to_save=["lm_head"]), tokens()
    shake(model)
    with torch.no_grad():
        model.get_base_model().lm_head.weight.add_(1)
    want = logits(model, ids)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(peft.PeftModel.from_pretrained(make("llama"), tmp_path).eval(), ids), want
    )
    assert isinstance(model.unload().lm_head, nn.Linear)


# ---------------------------------------------------------------------- settings


def test_the_start_of_the_paper():
    model, ids = adapted(init_identity=False), tokens()
    before = logits(make("llama"), ids)
    assert [float(layer.sparsegin_scale["default"]) for layer in layers(model)] == [0, 0.25, 0.5]
    assert not torch.equal(logits(model, ids), before)
    model.base_model.set_adapter("default")
    assert all(
        float(layer.sparsegin_gnn["default"].norm.weight.mean()) == 1 for layer in layers(model)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": "sigmoid"},
        {"threshold": {"name": "top_k", "k": 3, "renormalize": True}},
        {"threshold": 0.05, "graph": "per_head"},
        {"clamp": None, "threshold": 1.1},
        {"output_norm": False},
        {"output_norm": False, "hidden_dim": 24},
        {"scale_start": 0.5, "train_scale": False},
        {"mlp_ratio": None, "activation": "gelu", "depth": 3, "residual": True},
        {"hidden_norm": True, "dropout": 0.0},
        {"self_weight": 1.0, "input_norm": True},
    ],
)
def test_every_setting_starts_as_the_identity_trains_decodes_and_is_saved(settings, tmp_path):
    base, ids = make("llama"), tokens()
    before = logits(base, ids)
    model = adapted(base, **settings)
    assert torch.equal(logits(model, ids), before)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)
    assert all(
        layer.sparsegin_scale["default"].requires_grad == settings.get("train_scale", True)
        for layer in layers(model)
    )
    shake(model).eval()
    want = logits(model, ids, use_cache=False)
    cache = DynamicCache(config=base.config)
    parts = [logits(model, ids[:, :6], past_key_values=cache)] + [
        logits(model, ids[:, i : i + 1], past_key_values=cache) for i in range(6, 11)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), want, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(
            peft.PeftModel.from_pretrained(model.unload(), tmp_path).eval(), ids, use_cache=False
        ),
        want,
    )


def test_the_threshold_named_sigmoid_is_that_of_the_papers_code():
    """w = sigmoid(10 (a - 0.1)) where that is above 0.6, a = min(sum over heads, 1)."""
    base, ids = make("llama"), tokens()
    base.set_attn_implementation("eager")
    with torch.no_grad():
        attention = base(input_ids=ids, output_attentions=True).attentions[0]
    a = attention.sum(1).clamp(max=1)
    w = torch.sigmoid(10 * (a - 0.1))
    w = torch.where((w > 0.6) & (a > 0), w, 0)
    model, seen = adapted(base, threshold="sigmoid"), []
    layers(model)[0].sparsegin_gnn["default"].register_forward_hook(
        lambda module, args, out: seen.append(args[1])
    )
    logits(model, ids)
    torch.testing.assert_close(seen[0].to_dense(), w, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"direction": "query_to_key"}, "direction"),
        ({"graph": "heads"}, "graph"),
        ({"placement": "inside"}, "placement"),
        ({"threshold": "relu6"}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": {"name": "reweigh", "curve": "relu", "trainable": True}}, "no gradient"),
        ({"threshold": float("nan")}, "threshold"),
        ({"clamp": 0}, "clamp"),
        ({"scale_end": float("inf")}, "scale_end"),
        ({"scale_end": 0.0, "train_scale": False}, "never change anything"),
        ({"layers_pattern": "layers"}, "layers_to_transform"),
        ({"target_modules": ".*attn", "layers_to_transform": [1]}, "regular expression"),
        ({"format_version": 2}, "newer graphformer"),
    ],
)
def test_wrong_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        gf.SparseGINConfig(**settings)


def test_wrong_settings_that_only_a_model_shows():
    with pytest.raises(ValueError, match="activation"):
        adapted(activation="selu")
    with pytest.raises(ValueError, match="could never learn"):
        adapted(train_scale=False)
    base = make("llama")
    base.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(NotImplementedError, match="attn_implementation='sdpa'"):
        adapted(base)
    with pytest.raises(ValueError, match=r"token embeddings|AttentionInterface"):
        peft.get_peft_model(nn.Sequential(nn.Linear(2, 2)), gf.SparseGINConfig())


def test_an_adapter_of_a_newer_version_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match=r"version 99 .* newer graphformer"):
        peft.PeftModel.from_pretrained(make("llama"), tmp_path)


def test_no_edges_warn_once_with_the_names_of_the_layers():
    model, ids = adapted(threshold=50.0, clamp=None), tokens()
    with pytest.warns(
        UserWarning,
        match=r"model\.layers\.0\.self_attn, model\.layers\.1\.self_attn, "
        r"model\.layers\.2\.self_attn",
    ):
        out = logits(shake(model), ids)
    assert out.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        logits(model, ids)
    model = adapted(threshold=50.0, clamp=None, layers_to_transform=[1])
    with pytest.warns(UserWarning, match=r"in model\.layers\.1\.self_attn: there"):
        logits(model, ids)


def test_another_attention_implementation_afterwards_is_an_error():
    model = adapted()
    model.get_base_model().set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match=r"'eager' after a Sparse-GIN adapter"):
        logits(model, tokens())


# ---------------------------------------------------------------------- running


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_base_in_bfloat16_has_an_adapter_in_float32(name):
    base, ids = make(name).to(torch.bfloat16), tokens()
    before = logits(base, ids)
    model = adapted(base)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert torch.equal(logits(model, ids), before)
    model.train()
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=ids, labels=ids).loss.isfinite()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "olmo2", "bert"])
def test_activation_checkpointing_changes_no_gradient(name, reentrant):
    ids, gradients = tokens(), []
    for checkpointing in (False, True):
        model = shake(
            peft.get_peft_model(make(name), gf.SparseGINConfig(hidden_dim=7, dropout=0.0))
        )
        for module in model.modules():  # so that dropout does not differ between the two
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in gradients[0])


def test_packed_sequences_do_not_see_each_other():
    model, a, b = shake(adapted(depth=2)), tokens(1, 5), tokens(1, 7)
    packed = logits(
        model,
        torch.cat((a, b), 1),
        position_ids=torch.cat((torch.arange(5), torch.arange(7)))[None],
        use_cache=False,
    )
    torch.testing.assert_close(packed[:, :5], logits(model, a), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 5:], logits(model, b), atol=1e-5, rtol=1e-5)


def test_attentions_and_hidden_states_are_still_there():
    base, ids = make("llama"), tokens()
    base.set_attn_implementation("eager")
    with torch.no_grad():
        want = base(input_ids=ids, output_attentions=True, output_hidden_states=True)
        out = adapted(base)(input_ids=ids, output_attentions=True, output_hidden_states=True)
    assert all(torch.equal(x, y) for x, y in zip(out.attentions, want.attentions, strict=True))
    assert all(
        torch.equal(x, y) for x, y in zip(out.hidden_states, want.hidden_states, strict=True)
    )


GENERATE = {"max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True},
        {"num_beams": 3},
        {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
    ],
)
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
def test_generating_with_a_cache_gives_what_it_gives_without(name, how):
    base = make(name)
    model = shake(peft.get_peft_model(base, gf.SparseGINConfig(**BASE))).eval()
    ids = tokens(2, 7)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0  # padding on the left
    out = []
    for cache in (True, False, True):
        torch.manual_seed(3)
        out.append(
            model.generate(input_ids=ids, attention_mask=mask, use_cache=cache, **how, **GENERATE)
        )
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


def test_padding_does_not_change_what_is_generated():
    model, ids = shake(adapted()), tokens(1, 6)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    a = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **GENERATE
    )
    b = model.generate(
        input_ids=padded, attention_mask=(padded != 0).long(), do_sample=False, **GENERATE
    )
    assert torch.equal(a, b[:, 3:])


def test_prompt_lookup_crops_the_cache():
    model = shake(adapted())
    ids = tokens(1, 5).repeat(1, 3)
    plain = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **GENERATE
    )
    looked = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        prompt_lookup_num_tokens=3,
        **GENERATE,
    )
    assert torch.equal(plain, looked)


def test_what_is_done_to_a_cache_is_done_to_its_memory():
    model, ids = shake(adapted(depth=2)), tokens(2, 9)
    want = logits(model, ids, use_cache=False)
    cache = DynamicCache(config=model.config)
    logits(model, ids[:, :7], past_key_values=cache)
    kept = copy.deepcopy(cache)
    logits(model, tokens(2, 2), past_key_values=cache)
    cache.crop(-3)  # two wrong tokens and one right one
    torch.testing.assert_close(
        logits(model, ids[:, 6:], past_key_values=cache)[:, -1], want[:, -1], atol=1e-5, rtol=1e-5
    )
    kept.batch_repeat_interleave(2)
    again = logits(model, ids[:, 7:].repeat_interleave(2, 0), past_key_values=copy.deepcopy(kept))
    torch.testing.assert_close(again, want[:, 7:].repeat_interleave(2, 0), atol=1e-5, rtol=1e-5)
    kept.batch_select_indices(torch.tensor([2, 0]))
    torch.testing.assert_close(
        logits(model, ids[:, 7:].flip(0), past_key_values=copy.deepcopy(kept)),
        want[:, 7:].flip(0),
        atol=1e-5,
        rtol=1e-5,
    )
    kept.reorder_cache(torch.tensor([1, 0]))
    torch.testing.assert_close(
        logits(model, ids[:, 7:], past_key_values=kept), want[:, 7:], atol=1e-5, rtol=1e-5
    )
    kept.reset()
    torch.testing.assert_close(
        logits(model, ids[:, :7], past_key_values=kept), want[:, :7], atol=1e-5, rtol=1e-5
    )


def test_a_cache_that_another_adapter_filled_is_refused():
    model, ids = shake(adapted()), tokens()
    model.add_adapter("b", gf.SparseGINConfig(**BASE))
    cache = DynamicCache(config=model.config)
    logits(model, ids[:, :5], past_key_values=cache)
    model.set_adapter("b")
    with pytest.raises(
        RuntimeError, match=r"holds 5 tokens and adapter 'b' saw none.*Start with a new cache"
    ):
        logits(model, ids[:, 5:6], past_key_values=cache)
    cache = DynamicCache(config=model.config)
    with model.disable_adapter():
        logits(model, ids[:, :5], past_key_values=cache)
    with pytest.raises(RuntimeError, match="saw none"):
        logits(model, ids[:, 5:6], past_key_values=cache)
    cache = DynamicCache(config=model.config)
    logits(model, ids[:, :5], past_key_values=cache)
    with model.disable_adapter():
        logits(model, ids[:, 5:7], past_key_values=cache)
    with pytest.raises(RuntimeError, match="holds 7 tokens and adapter 'b' saw 5"):
        logits(model, ids[:, 7:8], past_key_values=cache)


def test_a_cache_of_fixed_size_is_refused():
    model, ids = shake(adapted()), tokens()
    with pytest.raises(NotImplementedError, match=r"StaticLayer.*cache_implementation='dynamic'"):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            cache_implementation="static",
            **GENERATE,
        )


# ---------------------------------------------------------------------- training


def _examples(count=16, length=12):
    return [
        {"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)}
        for row in tokens(count, length)
    ]


def _arguments(folder, **more):
    return dict(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **more,
    )


def test_trainer_saves_resumes_and_comes_to_the_same_end(tmp_path):
    data = _examples()

    def run(folder, resume=None):
        torch.manual_seed(0)
        model = adapted(dropout=0.0)
        trainer = Trainer(
            model,
            TrainingArguments(**_arguments(folder), gradient_checkpointing=True),
            train_dataset=data,
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    once = run(tmp_path / "a")
    again = run(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-2"))
    state = peft.get_peft_model_state_dict(once)
    assert all(
        torch.equal(value, state[key])
        for key, value in peft.get_peft_model_state_dict(again).items()
    )
    loaded = peft.PeftModel.from_pretrained(make("llama"), tmp_path / "a" / "checkpoint-4").eval()
    ids = tokens()
    assert torch.equal(logits(loaded, ids), logits(once.eval(), ids))


def test_sft_trainer(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": [row.tolist() for row in tokens(16, 12)]})
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"t{i}": i for i in range(61)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t3")),
        pad_token="t0",
        eos_token="t2",
    )
    arguments = trl.SFTConfig(
        **_arguments(tmp_path),
        max_length=12,
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
    )
    trainer = trl.SFTTrainer(
        make("llama"),
        arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=gf.SparseGINConfig(**BASE),
    )
    losses = []
    trainer.train()
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    assert losses and all(loss == loss for loss in losses)
    assert (tmp_path / "checkpoint-4" / "adapter_config.json").exists()


def test_sequence_classification():
    import transformers as tf

    from tests.adapter_models import DECODER

    base = tf.LlamaForSequenceClassification(tf.LlamaConfig(**DECODER, num_labels=3)).eval()
    ids = tokens()
    before = logits(base, ids)
    model = peft.get_peft_model(base, gf.SparseGINConfig(task_type="SEQ_CLS", hidden_dim=7)).eval()
    assert torch.equal(logits(model, ids), before)
    model.train()(input_ids=ids, labels=torch.tensor([0, 2])).loss.backward()
    assert any(
        "score.modules_to_save" in key for key, p in model.named_parameters() if p.grad is not None
    )


_DDP = """
import os, sys, torch, torch.distributed as dist, peft
sys.path.insert(0, {tests!r})
import graphformer as gf
from tests.adapter_models import make, transformers_own
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
dist.init_process_group("gloo")
rank = dist.get_rank()
config = gf.SparseGINConfig(hidden_dim=7, dropout=0.0, scale_start=0.25)
model = peft.get_peft_model(make("llama"), config).train()
model.get_base_model().gradient_checkpointing_enable({{"use_reentrant": False}})
model.enable_input_require_grads()
wrapped = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
torch.manual_seed(7)
ids = torch.randint(4, 61, (4, 9))
for _ in range(3):
    mine = ids[rank * 2 : rank * 2 + 2]
    wrapped(input_ids=mine, labels=mine).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save({{k: v for k, v in model.state_dict().items() if "sparsegin" in k}}, {out!r} + str(rank))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):

    script = tmp_path / "ddp.py"
    script.write_text(_DDP.format(tests=str(ROOT), out=str(tmp_path / "state")))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    subprocess.run(command, check=True, timeout=500)
    states = [torch.load(tmp_path / f"state{rank}") for rank in (0, 1)]
    model = peft.get_peft_model(
        make("llama"), gf.SparseGINConfig(hidden_dim=7, dropout=0.0, scale_start=0.25)
    ).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(7)
    ids = torch.randint(4, 61, (4, 9))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    alone = {key: value for key, value in model.state_dict().items() if "sparsegin" in key}
    for key, value in alone.items():
        assert torch.equal(states[0][key], states[1][key])
        # the losses are taken in float32
        torch.testing.assert_close(states[0][key], value, atol=1e-6, rtol=1e-6)


# ---------------------------------------------------------------------- a trained model


@pytest.fixture(scope="session")
def stories():
    import transformers as tf

    folder = _folder("GRAPHFORMER_MODELS", ROOT.parent / "shared" / "models") / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here")
    return lambda: tf.AutoModelForCausalLM.from_pretrained(folder).eval()


def test_on_a_trained_model(stories, tmp_path):
    base = stories()
    ids = torch.randint(4, base.config.vocab_size, (2, 40))
    before = logits(base, ids)
    model = peft.get_peft_model(base, gf.SparseGINConfig(**BASE, threshold=0.1)).train()
    assert torch.equal(logits(model.eval(), ids), before)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    model.eval()
    want = logits(model, ids, use_cache=False)
    mask = torch.ones_like(ids)
    a = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=20)
    b = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=20, use_cache=False
    )
    assert torch.equal(a, b)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        logits(peft.PeftModel.from_pretrained(stories(), tmp_path).eval(), ids, use_cache=False),
        want,
    )
    assert torch.equal(logits(model.unload(), ids), before)
