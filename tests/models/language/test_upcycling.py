"""Mixtures of attention experts from trained dense models."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.updates import Experts
from graphformer.models import upcycle

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"vocab_size": 23, "hidden_size": 15, "intermediate_size": 22, "num_hidden_layers": 2}
FREE = {"value_projection": True, "output_projection": True}
KINDS = {
    "sum": {"operator": "sum"},
    "gin cut": {"operator": "gin", "threshold": 0.05, "top_k": 5, **FREE},
    "pna": {"operator": "pna"},
    "heads by layer": {
        "operator": ["sum", "gin"],
        "num_attention_heads": [6, 2],
        "num_key_value_heads": [3, 2],
        **FREE,
    },
    "differential": {"operator": "sum", "score": "differential"},
    "pairwise sink": {
        "operator": "sum",
        "score": {"pairwise": 5},
        "normalize": "softmax_sink",
    },
    "head": {"head": gf.Head(normalize="entmax15", features="projection", update="output_map")},
}


def make(kind: str = "sum", seed: int = 0, **more) -> gf.GraphformerForCausalLM:
    torch.manual_seed(seed)
    given = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4, **KINDS[kind]}
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig(**{**SIZES, **given, **more}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(23, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_the_dense_model_whatever_the_router_says(kind: str, shared: bool, tmp_path):
    dense, ids = make(kind), tokens()
    want = dense(ids).logits
    mixture = upcycle(dense, 3, shared=shared, router_std=1.0)
    assert_close(mixture(ids).logits, want)
    assert_close(dense(ids).logits, want)
    layer, old = mixture.model.layers[0].self_attn, dense.model.layers[0].self_attn
    assert float(layer.update.linear.weight.abs().min()) > 0
    assert layer.num_heads == 3 * old.num_heads
    assert layer.num_kv_heads == (1 if shared else 3) * old.num_kv_heads
    gf.testing.check_cache(mixture, ids)
    mixture.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_close(loaded(ids).logits, want)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("top", [None, 1, 2])
def test_the_mixture_written_out(top: int | None, shared: bool):
    """Three dense models; each expert's attention by the layer of its own model."""
    dense = [make(seed=seed) for seed in range(3)]
    if shared:  # what they share must be the same to begin with
        for one in dense[1:]:
            for block, first in zip(one.model.layers, dense[0].model.layers, strict=True):
                block.self_attn.k_proj.load_state_dict(first.self_attn.k_proj.state_dict())
                block.self_attn.v_proj.load_state_dict(first.self_attn.v_proj.state_dict())
    mixture = upcycle(dense, top=top, shared=shared, router_std=0.7)
    layer, x = mixture.model.layers[1].self_attn, torch.randn(2, 11, 15)
    gates = (x @ layer.update.linear.weight.T + layer.update.linear.bias).softmax(-1)
    if top is not None:
        lowest = gates.topk(top, -1).values[..., -1:]
        gates = torch.where(gates >= lowest, 3 / top * gates, 0.0)
    outs = [one.model.layers[1].self_attn(x) for one in dense]
    want = sum(gates[..., e : e + 1] * out for e, out in enumerate(outs))
    assert_close(layer(x), want)
    norms = torch.stack([one.model.norm.weight for one in dense])
    assert_close(mixture.model.norm.weight, norms.mean(0))


@pytest.mark.parametrize("top", [1, 2])
def test_some_of_equal_gates_are_the_dense_model_too(top: int):
    dense = make()
    assert_close(
        upcycle(dense, 3, top=top, router_std=0.0)(tokens()).logits, dense(tokens()).logits
    )


def test_copies_go_different_ways_where_the_router_is_random():
    for std in (0.0, 0.5):
        mixture = upcycle(make(), 2, router_std=std)
        mixture.train()
        mixture(tokens(), labels=tokens()).loss.backward()
        first, second = mixture.model.layers[0].self_attn.q_proj.weight.grad.chunk(2)
        assert torch.allclose(first, second) == (std == 0.0)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in mixture.parameters())


def test_experts_that_share_keys_written_out():
    """Heads in the order of key heads; of each, those of expert 0, then of expert 1."""
    update = Experts(2, None, 5, 12, shared=True, num_kv_heads=3)
    with torch.no_grad():
        update.linear.weight.normal_()
    out, hidden = torch.randn(2, 12, 7, 4), torch.randn(2, 7, 5)
    gates = 2 * update.linear(hidden).softmax(-1)
    want = torch.stack([out[:, h] * gates[..., h // 2 % 2, None] for h in range(12)], 1)
    assert_close(update.of_heads(out, hidden), want)
    with pytest.raises(ValueError, match="num_heads=12 is no multiple of 8"):
        Experts(2, None, 5, 12, shared=True, num_kv_heads=4)


@pytest.mark.parametrize(
    ("models", "given", "text"),
    [
        (lambda: make(), {}, "experts=None: give the number of copies"),
        (lambda: make(), {"experts": 1}, "experts=1: give the number of copies"),
        (lambda: [make(), make()], {"experts": 3}, "experts=3, and there are 2 models"),
        (lambda: [], {}, "models is empty"),
        (lambda: [make(), make("pna")], {}, "models have different configs"),
        (
            lambda: make(operator="gin", hidden_size=24),
            {"experts": 2},
            "layer 0 has update='concat' and features='slice'",
        ),
    ],
)
def test_what_cannot_be_is_refused(models, given, text):
    with pytest.raises(ValueError, match=text):
        upcycle(models(), **given)
