"""The mask of edges in every shell."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data

import graphformer as gf
from graphformer.attention.sparsifiers import EdgeMask
from graphformer.training.graphs.model import GraphModel, load_graph_model

pytestmark = pytest.mark.usefixtures("float64")

HEAD = {"sparsify": {"name": "edge_mask", "sparsity": 0.4}}
INDEX = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 2, 2, 5], [1, 2, 3, 4, 5, 6, 0, 5, 5, 5]])


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


@pytest.mark.parametrize("training", [False, True])
def test_in_the_layer_of_tokens(training: bool):
    layer = stirred(gf.nn.GINAttention(12, 4, 2, head=gf.Head.from_spec(HEAD))).train(training)
    layer.sparsify.draw.fill_(5)
    x = torch.randn(2, 11, 12)
    want = layer(x)
    for executor in ("dense", "stream"):
        for backend in ("torch", "pyg", "torch_sparse"):
            if backend in gf.backends.available():
                layer.executor, layer.backend = executor, backend
                assert_close(layer(x), want)
    layer.executor = layer.backend = "auto"
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    gf.testing.check_gradients(layer.train(), x)


def test_on_edges_and_in_the_graph_transformer(tmp_path):
    x, attr = torch.randn(7, 5), torch.randn(10, 2)
    conv = gf.nn.GINAttentionConv(5, 12, 4, edge_dim=2, head=gf.Head.from_spec(HEAD)).train()
    stirred(conv).train()
    want = conv(x, INDEX, attr)
    for backend in ("pyg", "torch_sparse"):
        if backend in gf.backends.available():
            conv.backend = backend
            assert_close(conv(x, INDEX, attr), want)
    want.square().sum().backward()
    assert all(p.grad is not None for p in conv.parameters())
    _, graph = conv.eval()(x, INDEX, attr, output_graph=True)
    assert graph.num_edges == 4 * 9  # of 4 edges to node 5 one is cut, of single ones none
    net = stirred(
        gf.GraphTransformer(5, 2, 12, num_layers=2, num_heads=2, target="node", head=HEAD)
    )
    data = Data(x=x, edge_index=INDEX, edge_attr=attr)
    GraphModel(net).save(tmp_path)
    loaded = load_graph_model(tmp_path).net.double()
    assert_close(loaded(data).prediction, net(data).prediction)


def test_without_distances_the_numbers_of_nodes_do_not_matter():
    q, k = torch.randn(2, 1, 3, 11, 5)
    order = torch.randperm(11)
    mask = EdgeMask(0.4, distances=False, num_heads=3).eval()
    graph = gf.attention_graph(q, k, sparsify=mask).to_dense()
    moved = gf.attention_graph(q[:, :, order], k[:, :, order], sparsify=mask).to_dense()
    assert_close(moved, graph[:, :, order][..., order])
    assert not any("nearness" in name for name, _ in mask.named_parameters())


def test_law_of_slots():
    gf.testing.check_slot(EdgeMask(0.4))
    mask = EdgeMask(0.3, num_heads=3).half()  # the share stays exact
    assert int(mask.millionths) == 300_000


@pytest.mark.parametrize(
    "rule", [{"name": "persistent", "number": 2}, {"name": "blocks", "sizes": [3]}]
)
def test_senders_that_are_no_tokens_stand_where_the_score_has_them(rule):
    """The distance to a sender beside the tokens does not hang on the length of the text."""
    window = {"name": "window", "size": 4}
    own = rule if rule["name"] == "blocks" else {"name": "either", "first": window, "second": rule}
    layer = stirred(gf.nn.SumAttention(12, 2, head=gf.Head.from_spec({**HEAD, "candidates": own})))
    x = torch.randn(2, 11, 12)
    want = layer(x)
    for layer.executor in ("dense", "stream"):
        assert_close(layer(x), want)
        gf.testing.check_prefix(layer, x)
    layer.executor = "auto"
    gf.testing.check_prefix(layer, x)
