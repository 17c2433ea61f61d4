"""xgpt's settings: what is read, what is refused and why, and that its page says where each of them
went.
"""

import dataclasses
import json
import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from graphformer.compat.xgpt.settings import UNUSED, WITHOUT_EFFECT, Settings, read_settings
from tests.conftest import ROOT

EFFECTIVE = [field.name for field in dataclasses.fields(Settings)]
README = {
    "use_GNN_from_attention": "LlamaAttentionGIN",
    "attention_GIN_MLP_multiplier": 0.5,
    "use_sharpening": True,
    "initial_sharpening_value": 1.0,
    "attention_GIN_MLP_GIN_use_softmax": True,
    "attention_GIN_MLP_o_proj_at_end": False,
    "gnn_mode": "none",
}
ADAPTER = {"gnn_mode": "single", "gnn_type": "causal_gin"}
GIN = {"use_GNN_from_attention": "LlamaAttentionGIN"}


# ---------------------------------------------------------------- all 99


def test_there_are_99_settings():
    assert len(UNUSED) == 27
    assert (len(EFFECTIVE), len(WITHOUT_EFFECT)) == (58, 14)
    assert len({*EFFECTIVE, *UNUSED, *WITHOUT_EFFECT}) == 99


def page() -> dict[str, str]:
    """The page's sections of the second level, by title."""
    _, *parts = re.split(
        r"^## (.+)$", (ROOT / "docs" / "coming-from" / "xgpt.md").read_text(), flags=re.MULTILINE
    )
    return dict(zip(parts[::2], parts[1::2], strict=True))


def first_cells(text: str) -> list[str]:
    """What stands in backticks, alone, in the first column of the tables."""
    return re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)


def test_the_page_has_every_setting_where_it_belongs_and_once():
    sections = page()
    assert sorted(first_cells(sections["Settings with an effect"])) == sorted(EFFECTIVE)
    without = sections["Settings without effect"]
    assert sorted(first_cells(without)) == sorted(WITHOUT_EFFECT)
    nowhere, _ = without.split("Named elsewhere")
    assert sorted(re.findall(r"`(\w+)`", nowhere)) == sorted(UNUSED)


def test_the_page_names_only_what_is_there():
    import graphformer
    from graphformer.compat import xgpt

    text = (ROOT / "docs" / "coming-from" / "xgpt.md").read_text()
    for name in set(re.findall(r"\bxgpt\.(\w+)", text)):
        assert hasattr(xgpt, name), name
    for path in set(re.findall(r"\bgf\.([\w.]+)", text)):
        found = graphformer
        for part in path.split("."):
            found = getattr(found, part)


def test_recorded_cases_are_readable(golden_dir):
    """Every setting that a recorded case of xgpt was made with has its name here."""
    read = 0
    for case in json.loads((golden_dir / "manifest.json").read_text())["cases"].values():
        given = {name: value for name, value in case["settings"].items() if name in EFFECTIVE}
        if "cls" in case["settings"] and "Attention" in case["settings"]["cls"]:
            given["use_GNN_from_attention"] = case["settings"]["cls"]
        settings = read_settings({**ADAPTER, **given} if case["settings"].get("base") else given)
        assert all(
            getattr(settings, name) == (tuple(value) if isinstance(value, list) else value)
            for name, value in given.items()
        )
        read += len(given)
    assert read > 40


# ---------------------------------------------------------------- reading


def test_sources(tmp_path):
    expected = Settings(**README)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(README))
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text(
        json.dumps({"model_type": "llama", "vocab_size": 11, "gnn_config": README})
    )
    llama = SimpleNamespace(vocab_size=11, gnn_config=SimpleNamespace(**README, _name_or_path=""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (
            README,
            SimpleNamespace(**README),
            file,
            str(file),
            whole,
            whole / "config.json",
            llama,
            expected,
        ):
            assert read_settings(source) == expected


def test_missing_names_take_defaults():
    assert read_settings({}) == Settings()
    assert read_settings({"hidden_dim": 155}).activation == "relu"


def test_whole_numbers_and_lists():
    settings = Settings(
        attention_GIN_MLP_multiplier=1, threshold=0, lambda_GNN_initial=0, num_latents_list=[7, 5]
    )
    assert (
        settings.attention_GIN_MLP_multiplier,
        settings.lambda_GNN_initial,
        settings.num_latents_list,
    ) == (1.0, 0.0, (7, 5))
    assert isinstance(settings.threshold, float)
    assert hash(settings) == hash(dataclasses.replace(settings))


def test_what_transformers_adds_is_passed_over():
    added = {
        "model_type": "llama",
        "transformers_version": "4.46.3",
        "torch_dtype": "float32",
        "_name_or_path": "x",
        "id2label": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_settings({**added, **README}) == Settings(**README)


def test_the_configuration_class_of_transformers_adds_nothing_else():
    from transformers import PretrainedConfig

    class Stored(PretrainedConfig):
        model_type = "gnn"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_settings(Stored(**README)) == Settings(**README)
        assert read_settings(Stored(**README).to_dict()) == Settings(**README)


# ---------------------------------------------------------------- settings without effect


def test_one_warning_names_all_that_change_nothing():
    given = {
        "combined_norm": False,
        "top_k": 3,
        "degree": torch.ones(3),
        "soft_masking_k": 10,
        **README,
    }
    with pytest.warns(UserWarning) as caught:
        settings = read_settings(given)
    assert settings == Settings(**README)
    assert len(caught) == 1 and caught[0].filename == __file__
    text = str(caught[0].message)
    assert "combined_norm=False" in text and "top_k=3" in text and "degree=" in text
    assert "soft_masking_k" not in text  # its default


def test_no_warning_for_defaults_and_for_labels():
    defaults = {**UNUSED, **{name: default for name, (default, _) in WITHOUT_EFFECT.items()}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_settings(defaults) == Settings()
        assert (
            read_settings(
                {"model_type": "llama", "tokenizer": object(), "plot_for_debugging": True}
            )
            == Settings()
        )


@pytest.mark.parametrize(
    "name", sorted({*UNUSED, *WITHOUT_EFFECT} - {"model_type", "tokenizer", "plot_for_debugging"})
)
def test_each_setting_without_effect_is_reported(name: str):
    with pytest.warns(UserWarning, match=f"{name}='something else'"):
        read_settings({name: "something else"})


# ---------------------------------------------------------------- what is refused


def test_unknown_names():
    with pytest.raises(
        ValueError, match=r"'hidden_dims' \(the closest known one is 'hidden_dim'\)"
    ) as error:
        read_settings({"hidden_dims": 5, "use_sharpenning": True, "hidden_dim": 5})
    assert "'use_sharpenning' (the closest known one is 'use_sharpening')" in str(error.value)
    with pytest.raises(TypeError, match="hidden_dims"):
        Settings(hidden_dims=5)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("use_sharpening", 1, "a bool"),
        ("use_sharpening", "true", "a bool"),
        ("hidden_dim", 5.0, "an int"),
        ("hidden_dim", True, "an int"),
        ("threshold", "0.1", "a number"),
        ("threshold", True, "a number"),
        ("threshold", None, "a number"),
        ("lambda_GNN_initial", "0", "a number"),
        ("gnn_mode", None, "a str"),
        ("num_latents_list", 7, "a list of ints"),
        ("num_latents_list", [7, 5.0], "a list of ints"),
    ],
)
def test_wrong_types(name: str, value: object, wanted: str):
    with pytest.raises(
        TypeError,
        match=f"{name} must be {wanted}, got {re.escape(repr(value))} of type "
        f"{type(value).__name__}",
    ):
        read_settings({name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float):
    with pytest.raises(ValueError, match="epsilon_threshold must be a finite number"):
        Settings(epsilon_threshold=value)


FRACTION = "attention_GIN_MLP_GIN_top_k_fraction_of_sequence_length"
MODE = "attention_GIN_MLP_GIN_threshold_mode"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"use_GNN_from_attention": "LlamaAttentionGCN"},
            "unknown use_GNN_from_attention 'LlamaAttentionGCN'.*write 'none'",
        ),
        ({"gnn_mode": "double"}, "unknown gnn_mode 'double'; known: none, single, per_head"),
        (
            {"gnn_logic": "before"},
            "unknown gnn_logic 'before'; known: before_MLP, after_MLP, parallel_GNN_MLP",
        ),
        (
            {"MLP_type": "LlamaMLP_HalfwayGIN"},
            "unknown MLP_type 'LlamaMLP_HalfwayGIN'.*write 'standard_MLP'",
        ),
        ({"threshold": -0.1}, "threshold must not be negative, got -0.1"),
        ({**GIN, MODE: "silu_binary"}, f"unknown {MODE} 'silu_binary'; known: none, silu"),
        (
            {**GIN, MODE: "top_k", FRACTION: 0},
            f"{FRACTION} must lie in .0, 1. for threshold mode 'top_k', got 0.0",
        ),
        (
            {**GIN, MODE: "scaled_topk_causal_4d", FRACTION: 1.1},
            f"{FRACTION} must lie in .0, 1..*got 1.1",
        ),
        (
            {**GIN, "use_sharpening": True, "sharpening_value_init": "ones"},
            "unknown sharpening_value_init 'ones'; known: value, random",
        ),
        (
            {"gnn_mode": "single"},
            "unknown gnn_type 'causal_gnn'.*set gnn_type='causal_gin', or gnn_mode='none'",
        ),
        ({**ADAPTER, "gnn_type": "causal_pna"}, "unknown gnn_type 'causal_pna'"),
        (
            {**ADAPTER, "activation": "silu"},
            "unknown activation 'silu'; known: relu, tanh, gelu, prelu",
        ),
        (
            {**ADAPTER, "adj_construction_method": "max"},
            "unknown adj_construction_method 'max'; known: sum, mean",
        ),
        (
            {**ADAPTER, "adj_construction_method": "threshold_any", "threshold_any_tau": 0},
            "threshold_any_tau divides",
        ),
        (
            {
                **ADAPTER,
                "adj_construction_method": "learnable_aggregate",
                "learnable_aggregate_activation": "relu",
            },
            "unknown learnable_aggregate_activation 'relu'; known: softmax, sigmoid",
        ),
        (
            {**ADAPTER, "gnn_mode": "per_head", "adj_construction_method": "learnable_aggregate"},
            "'learnable_aggregate' merges the heads, but gnn_mode='per_head'.*set "
            "gnn_mode='single'",
        ),
        (
            {**ADAPTER, "use_distance_scaling": True, "distance_scaling_method": "log"},
            "unknown distance_scaling_method 'log'.*'linear'",
        ),
        (
            {**ADAPTER, "use_GNN_from_attention": "CG_Attention"},
            "CG_Attention has no attention map",
        ),
        (
            {"attention_GIN_MLP_GIN_mode": "GINLayer_Var_A"},
            "'GINLayer_Var_A' names a class that was never published",
        ),
    ],
)
def test_what_xgpt_cannot_run(given: dict[str, object], told: str):
    with pytest.raises(ValueError, match=told):
        read_settings(given)


@pytest.mark.parametrize(
    "given",
    [
        # no adapter
        {"gnn_type": "causal_pna", "activation": "silu", "adj_construction_method": "max"},
        {MODE: "silu_binary", "sharpening_value_init": "ones"},  # no graph attention
        {**GIN, FRACTION: 7, "sharpening_value_init": "ones"},  # no top-k, no sharpening
        {
            **ADAPTER,
            "learnable_aggregate_activation": "relu",
            "distance_scaling_method": "log",
            "threshold_any_tau": 0,
        },
        {**ADAPTER, "activation": "PReLU"},
        {"use_GNN_from_attention": "CG_Attention_Interpolate"},
    ],
)
def test_what_is_not_used_is_not_judged(given: dict[str, object]):
    assert dataclasses.asdict(read_settings(given)).items() >= given.items()


def test_sources_that_are_none(tmp_path):
    with pytest.raises(TypeError, match="a mapping, an object with attributes or a path, got None"):
        read_settings(None)
    with pytest.raises(TypeError, match="got None"):
        read_settings({"gnn_config": None})
    with pytest.raises(TypeError, match="got <class"):
        read_settings(Settings.__class__)
    with pytest.raises(
        ValueError, match=r"source: there is no file .*missing\.json'; give a config\.json"
    ):
        read_settings(tmp_path / "missing.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(TypeError, match=r"list\.json must hold names and values, but holds a list"):
        read_settings(tmp_path / "list.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is no JSON file"):
        read_settings(tmp_path / "broken.json")
