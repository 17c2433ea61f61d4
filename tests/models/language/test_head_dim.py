"""The width of a head, and numbers of heads by layer, in the language model."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import StaticCache

import graphformer as gf
from graphformer.models.language.twin import count_parameters, parameter_matched

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"vocab_size": 23, "hidden_size": 35, "intermediate_size": 22, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": [3, 1, 4], "num_key_value_heads": [1, 1, 2], "head_dim": 6}
MAPS = {"value_projection": True, "output_projection": True}
KINDS = {
    "sum": {"operator": "sum"},
    "gin": {"operator": "gin", **MAPS},
    "pna cut": {"operator": "pna", "threshold": 0.05},
    "mixed": {"operator": ["sum", "gin", "pna"], **MAPS},
    "differential": {"operator": "sum", "score": "differential"},
    "halfway": {
        "operator": "sum",
        "feed_forward": ["gated", {"name": "halfway", "alpha": 0.1}, "gated"],
    },
    "curve by head": {
        "operator": "sum",
        "threshold": {"name": "extra_edges", "rule": {"name": "window", "size": 2}},
    },
}


def make(kind: str, **more) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    config = gf.GraphformerConfig(**SIZES, **{**HEADS, **KINDS[kind], **more})
    return gf.GraphformerForCausalLM(config).eval()


def tokens() -> torch.Tensor:
    return torch.randint(23, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_by_layer(kind: str, tmp_path):
    model, ids = make(kind), tokens()
    graphs = model(ids, output_graphs=True).graphs
    assert [graph.batch_shape for graph in graphs] == [(2, 3), (2, 1), (2, 4)]
    gf.testing.check_cache(model, ids)
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.config.num_attention_heads == [3, 1, 4] and loaded.config.head_dim == 6
    assert_close(loaded(ids).logits, model(ids).logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    want = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, **options), want)
    if kind != "halfway":  # its messages are kept in a dynamic cache alone
        assert torch.equal(model.generate(ids, cache_implementation="static", **options), want)


@pytest.mark.parametrize("kind", ["sum", "gin"])
def test_a_static_cache_of_layers_with_different_heads(kind: str):
    model, ids = make(kind), tokens()
    cache = StaticCache(config=model.config, max_cache_len=19)
    parts = [model(part, past_key_values=cache).logits for part in ids.split((4, 1, 6), dim=1)]
    assert_close(torch.cat(parts, dim=1), model(ids).logits)


def test_one_number_of_heads_with_a_width_of_its_own():
    model = make("sum", num_attention_heads=3, num_key_value_heads=None, head_dim=8)
    assert model.config.num_key_value_heads == 3
    assert model.model.layers[2].self_attn.q_proj.weight.shape == (24, 35)
    gf.testing.check_cache(model, tokens())


@pytest.mark.parametrize("rope", ["linear", "dynamic", "yarn", "llama3"])
def test_rotary_embeddings_of_every_kind(rope: str):
    given = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    given["original_max_position_embeddings"] = 16
    if rope == "llama3":
        given |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = make("sum", rope_parameters=given)
    assert model.model.rotary_emb.inv_freq.shape == (3,)
    gf.testing.check_cache(model, tokens())


def test_what_was_not_given_follows_the_other_sizes(tmp_path):
    config = gf.GraphformerConfig(hidden_size=64, num_attention_heads=4)
    assert config.head_dim == 16
    config.hidden_size = 96
    assert config.head_dim == 24
    config.save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    assert held["head_dim"] is None
    del held["head_dim"]  # a file of before
    (tmp_path / "config.json").write_text(json.dumps(held))
    assert gf.GraphformerConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_twin_has_the_same_heads():
    config = make("sum").config
    twin = parameter_matched(config, "gin", **MAPS)
    assert twin.layer_num_heads == (3, 1, 4)
    assert abs(count_parameters(twin) - count_parameters(config)) < 4 * 3 * 35
    halves = parameter_matched(config, "sum", feed_forward={"name": "halfway", "alpha": 0.1})
    assert halves.intermediate_size % 12 == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"head_dim": 7}, "head_dim 7 must be even: rotary"),
        ({"head_dim": None}, r"num_attention_heads=\[3, 1, 4\] .* give it"),
        ({"num_attention_heads": [3, 1]}, "num_attention_heads holds 2, but num_hidden_layers is"),
        ({"num_key_value_heads": [3, 1]}, "num_key_value_heads holds 2, but num_hidden_layers is"),
        ({"num_key_value_heads": [2, 1, 4]}, "num_attention_heads 3 of layer 0 is not a multiple"),
        ({"num_attention_heads": [3, 0, 4]}, "num_attention_heads must be"),
        ({"per_layer_config": {0: {"num_attention_heads": 2}}}, "per_layer_config is transformers"),
    ],
)
def test_what_cannot_hold_is_refused(given, text):
    with pytest.raises(ValueError, match=text):
        gf.GraphformerConfig(**{**SIZES, **HEADS, "operator": "sum", **given})


def test_slices_of_another_width_are_refused_with_the_remedy():
    config = gf.GraphformerConfig(**SIZES, **HEADS, operator="gin")
    with pytest.raises(ValueError, match=r"features='slice' .* \(value_projection=True\)"):
        gf.GraphformerForCausalLM(config)
