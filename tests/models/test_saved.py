"""Models, an adapter and a graph that were saved before the slots became values answer as then."""

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from torch_geometric.data import Data
from transformers import AutoModelForCausalLM

import graphformer as gf
from graphformer.training.graphs.model import GraphModel, load_graph_model

SAVED = Path(__file__).parents[1] / "saved"


@pytest.fixture(scope="module")
def answers():
    return load_file(SAVED / "answers.safetensors")


@pytest.mark.parametrize("name", ["language-gin", "language-differential", "language-pairwise"])
def test_language_models(name, answers):
    model = gf.GraphformerForCausalLM.from_pretrained(SAVED / name).eval()
    assert_close(model(answers["input_ids"]).logits, answers[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["graphs-gin", "graphs-mixed"])
def test_graph_models(name, answers):
    data = Data(**{key: answers[key] for key in ("x", "edge_index", "edge_attr")})
    net = load_graph_model(SAVED / name).net
    assert_close(net(data).prediction, answers[name], atol=1e-5, rtol=1e-4)


def test_adapters(answers):
    base = AutoModelForCausalLM.from_pretrained(SAVED / "llama")
    model = peft.PeftModel.from_pretrained(base, SAVED / "adapter").eval()
    assert_close(model(answers["input_ids"]).logits, answers["adapter"], atol=1e-5, rtol=1e-4)


def test_graphs(answers):
    for graph in (
        gf.AttentionGraph.load(SAVED / "graph.safetensors"),
        torch.load(SAVED / "graph.pt"),
    ):
        assert_close(graph.to_dense(), answers["graph"])


def test_a_combined_sparsifier_with_parameters_is_saved_and_loaded(tmp_path):
    model = gf.GraphformerForCausalLM.from_pretrained(SAVED / "language-gin").eval()
    taus = [p for name, p in model.named_parameters() if name.endswith(".tau")]
    assert len(taus) == 3  # one a layer
    with torch.no_grad():
        for i, tau in enumerate(taus):
            tau.fill_(0.01 * (i + 1))
    model.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert_close(again(ids).logits, model(ids).logits)
    loaded = [float(p) for name, p in again.named_parameters() if name.endswith(".tau")]
    assert loaded == pytest.approx([0.01, 0.02, 0.03])


def test_a_normalizer_that_is_a_value_goes_into_settings_of_both_models(tmp_path):
    count = gf.attention.Sigmoid("count")
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        normalize=count,
        threshold=gf.Threshold(0.01) & gf.TopK(3),
    )
    assert config.normalize == {"name": "sigmoid", "bias": "count"}
    config.save_pretrained(tmp_path)
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig.from_pretrained(tmp_path))
    layer = model.model.layers[0].self_attn
    assert layer.normalize == count and layer.sparsify == gf.Threshold(0.01) & gf.TopK(3)
    given = {"normalize": count, "sparsify": gf.Threshold(0.01) & gf.TopK(3)}
    net = gf.GraphTransformer(3, hidden_size=10, num_layers=2, num_heads=2, **given)
    GraphModel(net).save(tmp_path / "net")
    loaded = load_graph_model(tmp_path / "net").net
    conv = loaded.layers[0].blocks[0].conv
    assert conv.normalize == count and conv.sparsify == given["sparsify"]


def test_a_trained_normalizer_is_one_a_layer():
    normalize = gf.attention.normalizers.SigmoidPerHead(2)
    net = gf.GraphTransformer(3, hidden_size=10, num_layers=3, num_heads=2, normalize=normalize)
    biases = {id(layer.blocks[0].conv.normalize.bias) for layer in net.layers}
    assert len(biases) == 3 and id(normalize.bias) not in biases


def test_degrees_above_a_weight_on_edge_lists():
    class Counts(gf.nn.Operator):
        reductions = ("degree", "degree@0.3")

        def forward(self, own, reduced):
            return torch.cat((reduced["degree"], reduced["degree@0.3"]), -1).expand(own.shape)

    conv = gf.nn.AttentionConv(Counts(), 3, 2, 1, None)
    x, index = torch.randn(5, 3), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 1, 1, 1, 0, 0]])
    out, graph = conv(x, index, output_graph=True)
    weights = graph.to_dense()[0]
    want = torch.stack(((weights > 0).sum(-1), (weights > 0.3).sum(-1)), -1).float()
    assert_close(out, want)
    hook = conv.register_message_forward_hook(lambda *_: None)
    assert_close(conv(x, index), want)
    hook.remove()


def test_candidates_and_scores_differ_from_head_to_head():
    from graphformer.attention import All, PerHead, PerHeadScore, ScaledDotProduct, Window

    q, k = torch.randn(2, 2, 4, 9, 5, dtype=torch.float64)
    rules = PerHead((Window(2), Window(2), All(), All()))
    scores = PerHeadScore((ScaledDotProduct(), ScaledDotProduct(2.0)) * 2)
    given = {"is_causal": True, "candidates": rules, "score": scores}
    dense = gf.attention_graph(q, k, executor="dense", **given)
    assert_close(gf.attention_graph(q, k, executor="stream", **given).to_dense(), dense.to_dense())
    for head, (rule, scale) in enumerate([(Window(2), None), (Window(2), 2.0), (All(), None)]):
        one = gf.attention_graph(q, k, is_causal=True, candidates=rule, scale=scale)
        assert_close(dense.to_dense()[:, head], one.to_dense()[:, head])
    conv = gf.nn.SumAttentionConv(3, 8, 4, head=gf.Head(candidates=rules, score=scores))
    index = torch.tensor([[0, 1, 4, 3, 0], [1, 1, 1, 1, 0]])
    graph = conv(torch.randn(5, 3), index, output_graph=True)[1]
    assert [graph.lane(h).num_edges for h in range(4)] == [3, 3, 5, 5]
