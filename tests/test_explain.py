"""gf.explain: which executor and backend, and why."""

import pytest
import torch

import graphformer as gf


def test_every_layer_of_a_model_is_explained():
    sizes = {"vocab_size": 11, "hidden_size": 12, "intermediate_size": 7, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig(operator=["sum", "gin", "pna"], **sizes))
    explanations = gf.explain(model, torch.randint(11, (1, 5)))
    assert [e.layer for e in explanations] == [f"model.layers.{i}.self_attn" for i in range(3)]
    assert [e.plan.executor for e in explanations] == ["flash", "flash", "dense"]
    assert "max, min, std, degree" in explanations[2].plan.reason
    assert str(explanations).splitlines()[0].startswith("model.layers.0.self_attn: executor flash, backend auto: ")


@pytest.mark.parametrize(
    ("options", "executor", "backend", "reason"),
    [
        ({"sparsify": gf.Threshold(0.1)}, "dense", "torch", "sparsify=Threshold"),
        ({"sparsify": gf.Threshold(0.1), "executor": "stream"}, "stream", "torch", "sparsify=Threshold"),
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
    monkeypatch.setattr("graphformer.attention.blocks.BLOCK_ELEMENTS", 10)
    (explanation,) = gf.explain(gf.nn.GINAttention(6, 2, sparsify=gf.TopK(2)), torch.randn(1, 5, 6))
    assert explanation.plan.executor == "stream"


def test_hooks_go_and_a_module_without_attention_is_refused():
    layer = gf.nn.GINAttention(6, 2)
    gf.explain(layer, torch.randn(1, 5, 6))
    assert not layer._forward_hooks
    with pytest.raises(ValueError, match="Linear called no attention layer of graphformer"):
        gf.explain(torch.nn.Linear(3, 3), torch.randn(1, 3))
