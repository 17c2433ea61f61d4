"""The reference's coarse-grained attention: its recorded outputs, and what is wrong with it."""

import json

import pytest
import torch
from torch.testing import assert_close

from graphformer.compat import xgpt

CASES = ("j_cg", "j_cg_interp")
SIZES = {"hidden_size": 32, "num_heads": 4}
CAUSAL = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()


@pytest.fixture
def golden(golden_dir, recorded, request):
    """A layer with its weights, what was recorded, its settings and state dict."""
    cases = json.loads((golden_dir / "manifest.json").read_text())["cases"]
    given = dict(cases[request.param]["settings"])
    settings = xgpt.Settings(use_GNN_from_attention=given.pop("cls"), **given)
    stored = recorded(request.param)
    state = {n.removeprefix("w."): v for n, v in stored.items() if n.startswith("w.")}
    return xgpt.load_coarse_attention(settings, state, **SIZES), stored, settings, state


def reached(layer, x, keep, token):
    """The tokens that the output at a token depends on."""
    x = x[:1].clone().requires_grad_()
    (grad,) = torch.autograd.grad(layer(x, keep)[0, token].square().sum(), x)
    return (grad[0].abs().amax(-1) > 1e-8).nonzero().flatten().tolist()


@pytest.mark.parametrize("golden", CASES, indirect=True)
@pytest.mark.parametrize("masked", [False, True])
def test_recorded_outputs(golden, masked):
    layer, stored, *_ = golden
    out = layer(stored["in.x"], CAUSAL if masked else None)
    want = stored["out.y_mask" if masked else "out.y_nomask"]
    assert_close(out, want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("golden", CASES[:1], indirect=True)
def test_tokens_see_what_they_should_not(golden):
    layer, stored, *_ = golden
    x = stored["in.x"]
    assert reached(layer, x, CAUSAL, 11) == [0, 1, 2, 11], "the last token misses nearly all"
    assert 7 in reached(layer, x, None, 5), "a token sees the later ones of its group"


@pytest.mark.parametrize("golden", CASES[1:], indirect=True)
def test_no_latent_reaches_the_output_of_the_interpolating_variant(golden):
    layer, stored, settings, state = golden
    latent = ("latent", "decoder_queries", "input_")
    changed = {n: v + (1.0 if any(one in n for one in latent) else 0.0) for n, v in state.items()}
    other = xgpt.load_coarse_attention(settings, changed, **SIZES)
    assert sum(n in layer.state_dict() for n in state) < len(state) / 2
    assert torch.equal(other(stored["in.x"]), layer(stored["in.x"]))
    assert reached(layer, stored["in.x"], None, 5) == list(range(6))


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_what_cannot_be_read(golden):
    layer, _, settings, state = golden
    with pytest.raises(RuntimeError, match="Unexpected key"):
        xgpt.load_coarse_attention(settings, state | {"mix.weight": torch.ones(1)}, **SIZES)
    fewer = {n: v for n, v in state.items() if "norm1" not in n}
    with pytest.raises(RuntimeError, match="Missing key"):
        xgpt.load_coarse_attention(settings, fewer, **SIZES)
    with pytest.raises(
        ValueError, match="'LlamaAttentionGIN'; known: CG_Attention, CG_Attention_I"
    ):
        gin = xgpt.Settings(use_GNN_from_attention="LlamaAttentionGIN")
        xgpt.load_coarse_attention(gin, state, **SIZES)
    with pytest.raises(ValueError, match=r"cannot be read as a model.*load_coarse_attention"):
        xgpt.config(settings, {"vocab_size": 5})
    if isinstance(layer, xgpt.CoarseAttention):
        with pytest.raises(ValueError, match="17 tokens, and max_position_embeddings is 16"):
            layer(torch.randn(1, 17, 32))
