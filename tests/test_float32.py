"""Single precision: a fast form loses what the naive form loses, and the laws hold to within it.

The bounds come from the naive form itself and from the row, so no processor's way of summing
decides. Kinds without a threshold: a weight next to one may fall to either side, and float64 tests
those.
"""

import copy

import peft
import pytest
import torch
from torch import nn

import graphformer as gf
from graphformer.attention.executors import blocks
from graphformer.testing import (
    LawViolation,
    check_cache,
    check_padding,
    check_precision,
    check_prefix,
    hidden_states,
    positions_of,
    random_graph,
    rounding_loss,
    token_ids,
)
from tests.adapter_models import DECODERS, ENCODERS, VISION, feed, make

IDS = token_ids(17)
KINDS = {
    "gin": {"operator": "gin"},
    "pna": {"operator": "pna"},
    "sum": {"operator": "sum"},
    "gin grouped": {"operator": "gin", "num_key_value_heads": 1},
    "mixed": {"operator": ["gin", "pna", "sum"], "num_hidden_layers": 3},
    "gin sigmoid": {"operator": "gin", "normalize": "sigmoid"},
}
FACTOR = 8


def language_model(kind: str, seed: int = 0) -> gf.GraphformerForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 17,
        "hidden_size": 30,
        "intermediate_size": 23,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "initializer_range": 0.1,
    }
    return gf.GraphformerForCausalLM(gf.GraphformerConfig(**{**sizes, **KINDS[kind]})).eval()


def dense(model: nn.Module) -> nn.Module:
    """A copy that computes the readable way."""
    twin = copy.deepcopy(model)
    for layer in twin.model.layers:
        layer.self_attn.executor = "dense"
    return twin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("executor", ["auto", "stream"])
def test_a_language_model_loses_what_its_dense_twin_loses(kind, executor, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    model = language_model(kind)
    for layer in model.model.layers:
        layer.self_attn.executor = executor
    check_precision(model, lambda m: m(IDS), twin=dense(model), factor=FACTOR)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_laws_of_a_language_model_hold_to_within_rounding(kind, seed):
    model = language_model(kind, seed)
    bound = {"atol": 0, "rtol": FACTOR * rounding_loss(dense(model), lambda m: m(IDS))}
    assert bound["rtol"] < 1e-3

    def padded(ids, keep):
        return model(ids, attention_mask=keep, position_ids=positions_of(keep))

    check_padding(padded, IDS, vocab_size=17, **bound)
    check_prefix(model, IDS, **bound)
    check_cache(model, IDS, **bound)


@pytest.mark.parametrize("kind", ["gin", "pna", "sum"])
@pytest.mark.parametrize("executor", ["auto", "stream", "flash"])
def test_a_layer_loses_what_its_dense_twin_loses(kind, executor, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    if (kind, executor) == ("pna", "flash"):
        pytest.skip("PNA needs edges")
    make_layer = {"gin": gf.nn.GINAttention, "pna": gf.nn.PNAAttention, "sum": gf.nn.SumAttention}[
        kind
    ]
    layer = make_layer(35, 5, executor=executor)
    twin = make_layer(35, 5, executor="dense")
    twin.load_state_dict(layer.state_dict())
    x = hidden_states(35)
    check_precision(layer, lambda m: m(x.to(next(m.parameters()).dtype)), twin=twin, factor=FACTOR)


@pytest.mark.parametrize("backend", gf.backends.available())
@pytest.mark.parametrize("kind", ["GINAttentionConv", "PNAAttentionConv", "SumAttentionConv"])
def test_a_layer_on_edges_loses_what_plain_torch_loses(kind, backend):
    conv = getattr(gf.nn, kind)(7, 10, heads=2, edge_dim=3, backend=backend).eval()
    twin = getattr(gf.nn, kind)(7, 10, heads=2, edge_dim=3, backend="torch").eval()
    twin.load_state_dict(conv.state_dict())
    graph = random_graph(11, 23, 7, edge_dim=3)
    index = torch.stack((graph.senders, graph.receivers))

    def call(module):
        dtype = next(module.parameters()).dtype
        return module(graph.x.to(dtype), index, graph.edge_attr.to(dtype))

    check_precision(conv, call, twin=twin, factor=FACTOR)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *VISION])
def test_an_adapter_loses_no_more_than_the_model_that_it_stands_in(name):
    base = make(name)
    placement = "beside_mlp" if name in ("gpt_neox_parallel", "phi", "cohere") else "before_mlp"
    config = gf.SparseGINConfig(hidden_dim=7, threshold=0.0, placement=placement)
    model = peft.get_peft_model(base, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "sparsegin" in key:
                parameter.normal_(std=0.1)
    ids = torch.randint(4, 61, (2, 11))

    def call(module):
        inputs = feed(name, ids)
        if name in VISION:
            inputs = {k: v.to(next(module.parameters()).dtype) for k, v in inputs.items()}
        return module(
            **inputs, **({} if name in VISION else {"use_cache": False} if name in DECODERS else {})
        )

    loss = rounding_loss(model, call)
    with model.disable_adapter():
        plain = rounding_loss(base, call)
    assert loss <= FACTOR * (plain + torch.finfo(torch.float32).eps), (loss, plain)


def test_a_layer_that_rounds_more_than_its_twin_is_rejected():
    class Coarse(nn.Linear):
        def forward(self, x):
            if x.dtype == torch.float64:
                return super().forward(x)
            return super().forward(x.bfloat16().to(x.dtype))

    coarse, fine = Coarse(7, 5), nn.Linear(7, 5)
    fine.load_state_dict(coarse.state_dict())
    x = hidden_states(7)
    with pytest.raises(
        LawViolation, match=r"the output in torch.float32 is off by .* of its row"
    ) as found:
        check_precision(coarse, lambda m: m(x.to(m.weight.dtype)), twin=fine)
    assert found.value.difference > found.value.tolerance > 0
    check_precision(fine, lambda m: m(x.to(m.weight.dtype)))
    fine.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="float64 is not finite"):
        check_precision(fine, lambda m: m(x.to(m.weight.dtype)))
