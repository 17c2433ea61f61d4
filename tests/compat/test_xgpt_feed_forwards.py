"""What the reference's feed-forwards with messages computed on fixed inputs, and what of it is
repaired.
"""

import json

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import EdgeMessages
from graphformer.compat import xgpt

pytestmark = pytest.mark.usefixtures("float64")

CASES = ("j_mlp_halfway", "j_mlp_multihop", "j_mlp_multiagg")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 4}


@pytest.fixture
def golden(float64, golden_dir, recorded, request):
    """The name of the class, its tensors, its parameters."""
    cases = json.loads((golden_dir / "manifest.json").read_text())["cases"]
    stored = recorded(request.param)
    weights = {n.removeprefix("w."): v for n, v in stored.items() if n.startswith("w.")}
    return cases[request.param]["settings"]["cls"], stored, weights


def quirks(kind):
    return ("own_max",) if kind.endswith("MultiAggregation") else ()


@pytest.mark.parametrize("golden", CASES, indirect=True)
@pytest.mark.parametrize("backend", ["torch", "pyg", "dgl", "torch_sparse"])
def test_recorded_outputs(golden, backend):
    if backend not in gf.backends.available():
        pytest.skip(f"{backend} is not installed")
    kind, stored, weights = golden
    f = xgpt.load_feed_forward(kind, weights, quirks=quirks(kind), **SIZES).eval()
    graph = gf.AttentionGraph.from_dense(stored["in.adj"])
    assert 0 < graph.num_edges < stored["in.adj"].numel()
    out = f(stored["in.x"], EdgeMessages(graph, 4, backend))
    assert_close(out, stored["out.y"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("golden", CASES[2:], indirect=True)
def test_its_maximum_is_no_maximum_and_ours_is(golden):
    kind, stored, weights = golden
    graph, x = gf.AttentionGraph.from_dense(stored["in.adj"]), stored["in.x"]
    found = {}
    for name in ((), quirks(kind)):
        f = xgpt.load_feed_forward(kind, weights, quirks=name, **SIZES).eval()
        own = f.hidden(x).unflatten(-1, (4, 16)).transpose(1, 2)
        found[name] = f.reduced(own, own, EdgeMessages(graph, 4))["max"]
    assert_close(found[quirks(kind)], own)
    past = [own[:, :, : i + 1].amax(2) for i in range(12)]  # every earlier token is a sender
    assert_close(found[()], torch.stack(past, 2))


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_in_a_model(golden):
    kind, _, weights = golden
    f = xgpt.load_feed_forward(kind, weights, **SIZES)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64}
    config = gf.GraphformerConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=4, feed_forward=f
    )
    model = gf.GraphformerForCausalLM(config).eval()
    model.model.layers[0].mlp.load_state_dict(f.state_dict())
    gf.testing.check_cache(model, torch.randint(0, 50, (2, 7)))


@pytest.mark.parametrize("golden", CASES[:1], indirect=True)
def test_what_cannot_be_read(golden):
    kind, _, weights = golden
    with pytest.raises(ValueError, match="unknown feed-forward 'LlamaMLP'; known: LlamaMLP_Halfw"):
        xgpt.load_feed_forward("LlamaMLP", weights, **SIZES)
    with pytest.raises(ValueError, match=r"unknown quirks \['own_max'\] of LlamaMLP_HalfwayG"):
        xgpt.load_feed_forward(kind, weights, quirks=("own_max",), **SIZES)
    with pytest.raises(ValueError, match=r"parameter 'gate_proj\.bias' cannot be read"):
        xgpt.load_feed_forward(kind, weights | {"gate_proj.bias": torch.zeros(64)}, **SIZES)
    fewer = {name: value for name, value in weights.items() if not name.startswith("alphas")}
    with pytest.raises(RuntimeError, match="alpha"):
        xgpt.load_feed_forward(kind, fewer, **SIZES)
