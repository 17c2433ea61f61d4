"""What a Sparse-GIN adapter's config refuses, on its own and on a model: nothing given is left out
without a word.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import graphformer as gf
from graphformer.nn import SparseGIN
from tests.adapter_models import make

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threshold": -3}, "threshold must be at least 0, got -3"),
        ({"threshold": -1e-9}, "threshold must be at least 0, got -1e-09"),
        ({"threshold": INF}, "threshold must be a finite number at least 0, got inf"),
        (
            {"threshold": 1.0},
            r"threshold=1.0 leaves no edge: no weight of graph='merged' exceeds 1 \(clamp\)",
        ),
        (
            {"threshold": 0.6, "clamp": 0.5},
            r"leaves no edge: no weight of graph='merged' exceeds 0.5 \(clamp\)",
        ),
        (
            {"threshold": 1.5, "graph": "per_head", "clamp": None},
            "leaves no edge: no weight of graph='per_head' exceeds 1",
        ),
        (
            {"graph": "per_head", "clamp": 0.7},
            "clamp=0.7 limits the merged weight, and graph='per_head' merges none",
        ),
        ({"clamp": NAN}, "clamp must be a finite number above 0, got nan"),
        ({"clamp": INF}, "clamp must be a finite number above 0, got inf"),
        ({"clamp": -1.0}, "clamp must be above 0, got -1.0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"hidden_dim": -7}, "hidden_dim must be at least 1, got -7"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"scale_start": NAN}, "scale_start must be a finite number, got nan"),
        ({"scale_end": -INF}, "scale_end must be a finite number, got -inf"),
        ({"dropout": 1.5}, "dropout must be a probability in 0..1, got 1.5"),
        ({"dropout": NAN}, "dropout must be a finite number, got nan"),
        ({"self_weight": NAN}, "self_weight must be a finite number, got nan"),
        ({"mlp_ratio": 0}, "mlp_ratio must be above 0, got 0"),
        ({"mlp_ratio": NAN}, "mlp_ratio must be a finite number above 0, got nan"),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves no hidden unit"),
        (
            {"mlp_ratio": None, "hidden_norm": True},
            "hidden_norm is inside the MLP, which mlp_ratio=None leaves out",
        ),
        ({"activation": "selu"}, "unknown activation 'selu'; known: prelu"),
        ({"target_modules": []}, r"target_modules=\[\] names no module"),
        ({"target_modules": ""}, "target_modules='' names no module"),
        ({"exclude_modules": ["self_attn", ""]}, "names no module"),
        ({"layers_to_transform": []}, "layers_to_transform is empty, which leaves no layer"),
        ({"layers_to_transform": -1}, "layers_to_transform must be at least 0, got -1"),
        ({"layers_to_transform": [0, -2]}, "layers_to_transform must be at least 0, got -2"),
        ({"format_version": 0}, "format_version must be at least 1, got 0"),
    ],
)
def test_a_value_out_of_range(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        gf.SparseGINConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden_dim": 7.0}, "hidden_dim must be a whole number, got 7.0"),
        ({"hidden_dim": True}, "hidden_dim must be a whole number, got True"),
        ({"depth": "2"}, "depth must be a whole number, got '2'"),
        ({"clamp": "1"}, "clamp must be a number, got '1'"),
        ({"scale_end": "0.5"}, "scale_end must be a number, got '0.5'"),
        ({"scale_start": [0.1, 0.2]}, "scale_start must be a number"),
        ({"dropout": None}, "dropout must be a number, got None"),
        ({"mlp_ratio": "1"}, "mlp_ratio must be a number, got '1'"),
        ({"train_scale": 1}, "train_scale must be True or False, got 1"),
        ({"init_identity": "no"}, "init_identity must be True or False, got 'no'"),
        ({"residual": None}, "residual must be True or False, got None"),
        ({"inference_mode": "yes"}, "inference_mode must be True or False"),
        ({"target_modules": 3}, "target_modules must be a text or a list of names, got 3"),
        ({"target_modules": [1]}, "target_modules must be a text or a list of names"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names, got 'lm_head'"),
        (
            {"layers_to_transform": "1"},
            "layers_to_transform must be a number or a list of numbers, got '1'",
        ),
        ({"layers_to_transform": [1.0]}, "layers_to_transform must be a whole number, got 1.0"),
        ({"layers_to_transform": True}, "layers_to_transform must be a whole number, got True"),
        ({"format_version": "1"}, "format_version must be a whole number"),
        (
            {"hiden_dim": 7},
            r"SparseGINConfig has no field 'hiden_dim', did you mean 'hidden_dim'\? Its own are "
            r"hidden_dim, depth",
        ),
        (
            {"rank_pattern": {"self_attn": 3}},
            r"rank_pattern=\{'self_attn': 3\} is of form='bottlenecks', and this is form='paper': "
            "leave it out, or give form='bottlenecks'",
        ),
        ({"r": 8}, r"SparseGINConfig has no field 'r'\. Its own are"),
    ],
)
def test_a_value_of_another_kind_or_a_field_that_there_is_not(
    settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        gf.SparseGINConfig(**settings)


@pytest.mark.parametrize("name", ["direction", "graph", "placement", "activation"])
@pytest.mark.parametrize("value", [None, 3, "", "Merged"])
def test_a_name_that_is_none(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"unknown {name}"):
        gf.SparseGINConfig(**{name: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hiden_dim": 7}, "no field 'hiden_dim', did you mean 'hidden_dim'"),
        ({"treshold": 0.3}, "no field 'treshold', did you mean 'threshold'"),
        ({"hidden_dim": "7"}, "hidden_dim must be a whole number"),
        ({"dropout": NAN}, "dropout must be a finite number"),
        ({"layers_to_transform": [17]}, "layers_to_transform names layer 17"),
    ],
)
def test_a_saved_config_is_checked(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    peft.get_peft_model(make("llama"), gf.SparseGINConfig(hidden_dim=7)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises((TypeError, ValueError), match=text):
        peft.PeftModel.from_pretrained(make("llama"), tmp_path)
    if "layers_to_transform" not in changes:  # which only a model can tell
        with pytest.raises((TypeError, ValueError), match=text):
            peft.PeftConfig.from_pretrained(tmp_path)


def test_a_file_of_a_newer_peft_may_know_more_and_the_field_is_named(tmp_path: Path) -> None:
    gf.SparseGINConfig().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "peft_version": "99.0.0", "runtime": 1})
    )
    with pytest.warns(UserWarning, match=r"Unexpected keyword arguments \['runtime'\]"):
        assert gf.SparseGINConfig.from_pretrained(tmp_path).hidden_dim == 16


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"layers_to_transform": [0, 7]},
            r"layers_to_transform names layer 7, which this model has not got; it has "
            r"model\.layers\.0\.self_attn",
        ),
        ({"layers_to_transform": 3}, "layers_to_transform names layer 3"),
        (
            {"layers_to_transform": 1, "layers_pattern": "blocks"},
            "names layer 1, which this model has not got under layers_pattern='blocks'",
        ),
        (
            {"target_modules": ["model.layers.0.self_attn"], "layers_to_transform": [1]},
            "'model.layers.0.self_attn' in target_modules is one whole path",
        ),
        (
            {"target_modules": ["self_attn", "cross_attn"]},
            "target_modules names 'cross_attn', which is no attention module of this model",
        ),
        ({"target_modules": ["q_proj", "self_attn"]}, "target_modules names 'q_proj'"),
        ({"target_modules": ["q_proj"]}, r"target_modules=\{'q_proj'\}.*leave no attention module"),
        ({"target_modules": "q_proj"}, "target_modules=q_proj.*leave no attention module"),
        (
            {"exclude_modules": ["mlp"]},
            "exclude_modules names 'mlp', which is no attention module of this model",
        ),
        ({"exclude_modules": r".*\.9\.self_attn"}, "exclude_modules names"),
        ({"exclude_modules": ["self_attn"]}, "leave no attention module"),
        (
            {"modules_to_save": ["lm_heat"]},
            "modules_to_save names 'lm_heat', and this model has no module of that name",
        ),
        ({"modules_to_save": ["lm_head", "nothing"]}, "modules_to_save names 'nothing'"),
        (
            {"modules_to_save": ["self_attn"]},
            r"modules_to_save='self_attn' holds model\.layers\.0\.self_attn, where this adapter "
            r"stands",
        ),
        ({"modules_to_save": ["layers"]}, "modules_to_save='layers' holds"),
        (
            {"modules_to_save": ["norm"]},  # input_layernorm too
            r"modules_to_save='norm' holds what reads the residual of model\.layers\.0\.self_attn, "
            r"where this adapter stands.* \(a name stands for all whose paths end with it\)",
        ),
        (
            {"placement": "beside_mlp"},
            "placement='beside_mlp' cannot stand there; use placement='before_mlp'",
        ),
    ],
)
def test_a_choice_that_the_model_has_not_got(settings: dict[str, Any], text: str) -> None:
    base = make("llama")
    names, ids = list(dict(base.named_modules())), torch.randint(4, 61, (1, 7))
    with torch.no_grad():
        before = base(input_ids=ids).logits
        with pytest.raises(ValueError, match=text):
            peft.get_peft_model(base, gf.SparseGINConfig(**settings))
        assert list(dict(base.named_modules())) == names  # and nothing was changed
        assert base.config._attn_implementation == "sdpa" and torch.equal(
            base(input_ids=ids).logits, before
        )


def test_a_choice_that_a_second_adapter_cannot_make_leaves_the_first() -> None:
    model = peft.get_peft_model(make("llama"), gf.SparseGINConfig(hidden_dim=7)).eval()
    ids = torch.randint(4, 61, (1, 7))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with pytest.raises(ValueError, match="names layer 9"):
            model.add_adapter("x", gf.SparseGINConfig(layers_to_transform=[9]))
        assert list(model.peft_config) == ["default"] and model.active_adapters == ["default"]
        assert torch.equal(model(input_ids=ids).logits, before)


def test_what_is_given_and_used_is_not_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for settings in (
            {"target_modules": ("self_attn",), "layers_to_transform": range(2)},
            {"exclude_modules": [r"layers.0.self_attn"], "modules_to_save": ("model.norm",)},
            {"threshold": 0, "clamp": None},
            {"threshold": 2.5, "clamp": 4, "mlp_ratio": 2},
            {"graph": "per_head", "threshold": {"name": "top_k", "k": 2}},
        ):
            model = peft.get_peft_model(make("llama"), gf.SparseGINConfig(hidden_dim=7, **settings))
            assert model.get_nb_trainable_parameters()[0] > 0


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"norm_eps": NAN}, ValueError, "norm_eps must be a finite number at least 0, got nan"),
        ({"norm_eps": -1e-5}, ValueError, "norm_eps must be at least 0, got -1e-05"),
        ({"self_weight": INF}, ValueError, "self_weight must be a finite number, got inf"),
        ({"dropout": NAN}, ValueError, "dropout must be a finite number, got nan"),
        ({"mlp_ratio": -1}, ValueError, "mlp_ratio must be above 0, got -1"),
        ({"hidden_dim": 7.5}, TypeError, "hidden_dim must be a whole number, got 7.5"),
        ({"hidden_size": "35"}, TypeError, "hidden_size must be a whole number"),
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ({"weighted": "yes"}, TypeError, "weighted must be True or False, got 'yes'"),
        ({"output_norm": 1}, TypeError, "output_norm must be True or False, got 1"),
    ],
)
def test_the_network_refuses_the_same(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        SparseGIN(**{"hidden_size": 35, **arguments})
    assert isinstance(SparseGIN(35), nn.Module)
