"""gf.explain: which executor and backend, and why."""

import pytest
import torch
from torch_geometric.data import Data

import graphformer as gf


def test_every_layer_of_a_model_is_explained():
    sizes = {
        "vocab_size": 11,
        "hidden_size": 12,
        "intermediate_size": 7,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig(operator=["sum", "gin", "pna"], **sizes))
    explanations = gf.explain(model, torch.randint(11, (1, 5)))
    assert [e.layer for e in explanations] == [f"model.layers.{i}.self_attn" for i in range(3)]
    assert [e.plan.executor for e in explanations] == ["flash", "flash", "dense"]
    assert "max, min, std, degree" in explanations[2].plan.reason
    assert (
        str(explanations)
        .splitlines()[0]
        .startswith("model.layers.0.self_attn: executor flash, backend auto: ")
    )


@pytest.mark.parametrize(
    ("options", "executor", "backend", "reason"),
    [
        ({"sparsify": gf.Threshold(0.1)}, "dense", "torch", "sparsify=Threshold"),
        (
            {"sparsify": gf.Threshold(0.1), "executor": "stream"},
            "stream",
            "torch",
            "sparsify=Threshold",
        ),
        ({"backend": "pyg"}, "dense", "pyg", "backend='pyg' was named"),
        ({"normalize": "sigmoid"}, "dense", "torch", "is not softmax"),
        ({"executor": "dense"}, "dense", "torch", "executor='dense' was named"),
    ],
)
def test_reasons(options, executor, backend, reason):
    (explanation,) = gf.explain(gf.nn.GINAttention(6, 2, **options), torch.randn(1, 5, 6))
    assert (explanation.plan.executor, explanation.plan.backend) == (executor, backend)
    assert reason in str(explanation)


def test_long_sequences_are_streamed(monkeypatch):
    monkeypatch.setattr("graphformer.attention.executors.blocks.BLOCK_ELEMENTS", 10)
    (explanation,) = gf.explain(gf.nn.GINAttention(6, 2, sparsify=gf.TopK(2)), torch.randn(1, 5, 6))
    assert explanation.plan.executor == "stream"


PATH = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])


@pytest.mark.parametrize(("backend", "told"), [("auto", "torch"), ("pyg", "pyg")])
@pytest.mark.parametrize("kind", [gf.nn.GINAttentionConv, gf.nn.PNAAttentionConv])
def test_a_layer_on_given_edges(kind, backend, told):
    conv = kind(3, 6, heads=2, backend=backend)
    (explanation,) = explanations = gf.explain(conv, torch.randn(5, 3), PATH)
    assert (explanation.layer, explanation.plan.executor, explanation.plan.backend) == (
        "",
        "edges",
        told,
    )
    assert (
        str(explanations)
        == f"the layer: executor edges, backend {told}: only the given edges are scored"
    )


def test_every_layer_and_level_of_a_graph_transformer():
    groups = torch.tensor([0, 0, 1, 1, 2])
    data = Data(x=torch.randn(5, 3), edge_index=PATH, group_0=groups)
    net = gf.GraphTransformer(
        3,
        hidden_size=8,
        num_heads=2,
        num_layers=2,
        operator=["gin", "pna"],
        levels=["group_0"],
        backend="pyg",
    )
    explanations = gf.explain(net, data)
    places = [f"layers.{layer}.blocks.{level}.conv" for layer in (0, 1) for level in (0, 1)]
    assert [e.layer for e in explanations] == places and all(
        net.get_submodule(place) for place in places
    )
    assert {(e.plan.executor, e.plan.backend) for e in explanations} == {("edges", "pyg")}


def test_both_kinds_of_layers_stay_in_order():
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attention = (
                gf.nn.GINAttentionConv(6, 6, heads=2),
                gf.nn.GINAttention(6, 2),
            )

        def forward(self, x):
            return self.conv(self.attention(self.conv(x, PATH)[None])[0], PATH)

    assert [(e.layer, e.plan.executor) for e in gf.explain(Mixed(), torch.randn(5, 6))] == [
        ("conv", "edges"),
        ("attention", "flash"),
        ("conv", "edges"),
    ]


def test_hooks_go_and_a_module_without_attention_is_refused():
    layer = gf.nn.GINAttention(6, 2)
    gf.explain(layer, torch.randn(1, 5, 6))
    assert not layer._forward_hooks
    with pytest.raises(ValueError, match="Linear called no attention layer of graphformer"):
        gf.explain(torch.nn.Linear(3, 3), torch.randn(1, 3))
