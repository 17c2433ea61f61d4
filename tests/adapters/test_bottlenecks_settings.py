"""What a config of the second form holds, refuses, saves and matches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import graphformer as gf
from graphformer.adapters import count_trainable, scales
from tests.adapter_models import make

FORM = {"form": "bottlenecks"}


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"form": "lora"}, ValueError, "unknown form 'lora'; known: paper, bottlenecks"),
        ({**FORM, "hidden_dim": 16}, TypeError, "hidden_dim=16 is of form='paper', and this is"),
        ({**FORM, "threshold": 0.2}, TypeError, "threshold=0.2 is of form='paper'.*leave it out"),
        ({"rank": 8}, TypeError, "rank=8 is of form='bottlenecks', and this is form='paper'"),
        ({"relations": []}, TypeError, r"relations=\[\] is of form='bottlenecks'"),
        ({**FORM, "rnak": 3}, TypeError, "no field 'rnak', did you mean 'rank'"),
        ({**FORM, "rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({**FORM, "rank": 2.0}, TypeError, "rank must be a whole number, got 2.0"),
        ({**FORM, "scaling": 0}, ValueError, "scaling=0 leaves nothing"),
        ({**FORM, "scaling": float("nan")}, ValueError, "scaling must be a finite number"),
        ({**FORM, "activation": "prelu"}, ValueError, "unknown activation 'prelu'; known: silu"),
        ({**FORM, "dropout": 1.5}, ValueError, "dropout must be a probability in 0..1, got 1.5"),
        ({**FORM, "rank_pattern": [3]}, TypeError, "rank_pattern must be a dictionary of names"),
        ({**FORM, "rank_pattern": {"q_proj": 0}}, ValueError, r"rank_pattern\['q_proj'\] must be"),
        ({**FORM, "rank_pattern": {3: 3}}, TypeError, "rank_pattern must have names for keys"),
        ({**FORM, "relations": [gf.Chain(2), gf.Chain(3)]}, ValueError, "relations hold two chain"),
        ({**FORM, "relations": ["chains"]}, ValueError, "unknown relation 'chains'"),
        ({**FORM, "relations": [gf.EdgeTypes(2)]}, ValueError, "reads the edges of a graph, which"),
        ({**FORM, "relations": 3}, TypeError, "a Relation, a name or a list of them"),
        ({**FORM, "messages": 4}, TypeError, "messages must be a dictionary of arguments"),
        ({**FORM, "messages": {"rank": 4}}, TypeError, "messages has no argument 'rank'"),
        ({**FORM, "messages": {"hidden_dim": 0}}, ValueError, "hidden_dim must be at least 1"),
        ({**FORM, "format_version": 1}, ValueError, "format_version=1 knows no form='bottlenecks'"),
        ({**FORM, "inference_mode": "no"}, TypeError, "inference_mode must be True or False"),
    ],
)
def test_a_config_is_refused(settings: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        gf.SparseGINConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"target_modules": ["lm_head"]},
            "leave no linear layer of this model, which has self_att",
        ),
        (
            {"target_modules": ["q_proj", "query"]},
            "names 'query', which is no linear layer in a li",
        ),
        ({"layers_to_transform": [7]}, "layers_to_transform names layer 7"),
        ({"modules_to_save": ["self_attn"]}, r"holds model\.layers\.0\.self_attn\.q_proj, where"),
        ({"rank_pattern": {"c_attn": 3}}, "rank_pattern names 'c_attn', which is no linear layer"),
        (
            {"rank_pattern": {"q_proj": 3, "v_proj": 5}},
            r"gives 'q_proj' rank 3 and 'v_proj' rank 5, and self_attn\.q_proj, self_attn\.k_proj, "
            r"self_attn\.v_proj of model\.layers\.0 share a bottleneck: give one rank",
        ),
    ],
)
def test_a_choice_that_the_model_has_not_got(settings: dict[str, Any], text: str) -> None:
    base = make("llama")
    names = list(dict(base.named_modules()))
    with pytest.raises(ValueError, match=text):
        peft.get_peft_model(base, gf.SparseGINConfig(**FORM, **settings))
    assert list(dict(base.named_modules())) == names
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())


def test_ids_are_asked_for_where_tokens_are_compared() -> None:
    model = peft.get_peft_model(make("llama"), gf.SparseGINConfig(**FORM)).eval()
    embeds = torch.randn(1, 5, 24)
    with pytest.raises(ValueError, match=r"inputs_embeds are given.*relations=\[gf\.Chain\(3\)\]"):
        model(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="are bottlenecks without messages: they have neither"):
        scales(model)
    chain = gf.SparseGINConfig(**FORM, relations=[gf.Chain(3)])
    model = peft.get_peft_model(make("llama"), chain).eval()
    assert model(inputs_embeds=embeds).logits.isfinite().all()
    model = peft.get_peft_model(make("gemma3_text"), gf.SparseGINConfig(**FORM)).eval()
    masks = {"sliding_attention": torch.ones(1, 1, 5, 5).bool()}  # relations look beyond windows
    with pytest.raises(ValueError, match=r"read attention_mask of tokens \[B, N\] or of pairs"):
        model(input_ids=torch.ones(1, 5).long(), attention_mask=masks)


def test_ranks_and_layers_are_as_for_lora() -> None:
    config = gf.SparseGINConfig(
        **FORM,
        rank=3,
        rank_pattern={r"self_attn\.o_proj": 5, "layers.1.mlp.down_proj": 7},
        target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        exclude_modules=r".*layers\.2\..*",
        relations=[],
    )
    shapes = {
        key: tuple(p.shape)
        for key, p in peft.get_peft_model(make("llama"), config).named_parameters()
        if p.requires_grad
    }
    prefix = "base_model.model.model.layers."
    down, up = "bottleneck.sparsegin_down.default", "bottleneck.sparsegin_up.default"
    assert shapes == {
        f"{prefix}{layer}.{name}": shape
        for layer in (0, 1)
        for name, shape in {
            f"self_attn.q_proj.{down}": (3, 24),
            f"self_attn.q_proj.{up}": (24, 3),
            f"self_attn.v_proj.{up}": (12, 3),
            f"self_attn.o_proj.{down}": (5, 24),
            f"self_attn.o_proj.{up}": (24, 5),
            f"mlp.down_proj.{down}": (7 if layer else 3, 40),
            f"mlp.down_proj.{up}": (24, 7 if layer else 3),
        }.items()
    }


def test_a_saved_one_holds_its_own_arguments_and_is_loaded(tmp_path: Path) -> None:
    """The paper's form is saved as format 1, without a word of the second, and loaded by name."""
    relations = [gf.Chain(2), gf.Repeats(2, "mean")]
    config = gf.SparseGINConfig(**FORM, relations=relations, messages={"hidden_dim": 3})
    model = peft.get_peft_model(make("llama"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin_" in name:
                parameter.normal_(std=0.3)
    ids = torch.randint(4, 9, (2, 11))
    want = model(input_ids=ids).logits
    model.save_pretrained(tmp_path / "second")
    saved = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert saved["format_version"] == 2 and saved["form"] == "bottlenecks"
    assert saved["rank"] == 8 and "hidden_dim" not in saved and "threshold" not in saved
    loaded = peft.PeftModel.from_pretrained(make("llama"), tmp_path / "second", "other").eval()
    assert torch.equal(loaded(input_ids=ids).logits, want)
    assert loaded.peft_config["other"].checked_relations() == tuple(relations)

    peft.get_peft_model(make("llama"), gf.SparseGINConfig()).save_pretrained(tmp_path / "first")
    path = tmp_path / "first" / "adapter_config.json"
    saved = json.loads(path.read_text())
    assert saved["format_version"] == 1 and saved["form"] == "paper" and "rank" not in saved
    del saved["form"]  # as it was saved before there were two
    path.write_text(json.dumps(saved))
    assert peft.PeftConfig.from_pretrained(tmp_path / "first").form == "paper"
    path.write_text(json.dumps({**saved, "form": "bottlenecks"}))
    with pytest.raises(TypeError, match="is of form='paper', and this is form='bottlenecks'"):
        peft.PeftConfig.from_pretrained(tmp_path / "first")


def test_what_is_left_out_is_written_into_the_config() -> None:
    config = gf.SparseGINConfig(**FORM)
    peft.get_peft_model(make("bert"), config)
    assert config.checked_relations() == (gf.Chain(3),)  # both ways, and nothing that looks back
    assert config.target_modules == {"dense", "key", "query", "value"} or sorted(
        config.target_modules
    ) == ["dense", "key", "query", "value"]
    config = gf.SparseGINConfig(**FORM, target_modules="all-linear")
    peft.get_peft_model(make("llama"), config)
    assert len(config.checked_relations()) == 5 and "gate_proj" in config.target_modules


@pytest.mark.parametrize("settings", [{}, {"relations": []}, {"messages": {"hidden_dim": 2}}])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "phi"])
def test_ranks_are_chosen_to_match_lora_within_one_percent(
    name: str, settings: dict[str, Any]
) -> None:
    if name == "phi" and settings.get("messages"):
        settings = {"messages": {"hidden_dim": 2, "placement": "beside_mlp"}}
    model = make(name)
    lora = peft.LoraConfig(r=16, target_modules="all-linear")
    wanted = count_trainable(model, lora)
    config = gf.SparseGINConfig(**FORM, **settings)
    matched = gf.match_parameters(model, lora, config, tolerance=0.01)
    assert abs(count_trainable(model, matched) - wanted) <= 0.01 * wanted
    assert config.rank_pattern is None  # what was given stays as it was


def test_what_cannot_be_matched_is_told() -> None:
    model, lora = make("llama"), peft.LoraConfig(r=1, target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"no ranks give 144 parameters within 2%.* relations or"):
        gf.match_parameters(model, lora, gf.SparseGINConfig(**FORM))
    with pytest.raises(ValueError, match=r"rank_pattern=.* is what match_parameters chooses"):
        gf.match_parameters(model, lora, gf.SparseGINConfig(**FORM, rank_pattern={"q_proj": 3}))
