"""Features of pairs that change from layer to layer, and the norm that keeps magnitudes."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.models.graphs.edge_update import EdgeUpdate
from graphformer.nn import EdgeList
from graphformer.training.graphs.model import GraphModel, load_graph_model
from graphformer.training.graphs.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"hidden_size": 12, "num_layers": 3, "num_heads": 3, "edge_hidden": 5}


def made(**more):
    torch.manual_seed(0)
    net = gf.GraphTransformer(4, 2, target="node", **{**SIZES, **more}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def a_graph(nodes=7, edges=11, seed=1):
    torch.manual_seed(seed)
    index = torch.randint(nodes, (2, edges))
    return Data(x=torch.randn(nodes, 4), edge_index=index, edge_attr=torch.randn(edges, 2))


def test_beside_the_formula_edge_by_edge():
    update = EdgeUpdate(3, 5).eval()
    senders, receivers = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 3])
    h, features = torch.randn(4, 3), torch.randn(4, 5)
    edges = EdgeList.sort(senders, receivers, 4, 4)
    found = update(features, h, edges)
    for e, (j, i) in enumerate(zip(edges.senders, edges.receivers, strict=True)):
        told = update.receiver.weight @ F.layer_norm(h[i], (3,), *update.node_norm.parameters())
        told += update.sender.weight @ F.layer_norm(h[j], (3,), *update.node_norm.parameters())
        told += update.edge.weight @ F.layer_norm(features[e], (5,), *update.edge_norm.parameters())
        new = update.out(F.silu(told + update.receiver.bias))
        assert_close(found[e], features[e] + new)


def test_each_layer_reads_what_the_one_before_made():
    net, data = made(edge_update=True, refine=False), a_graph()
    level = net.embed(data)
    edges, features, given = net._pairs(level, 0, "edges")
    h = level.h
    for layer in net.layers:
        h, *_ = layer.blocks[0](h, edges, features, None, given)
        if layer.edges is not None:
            features = layer.edges[0](features, h, edges)
    assert [layer.edges is None for layer in net.layers] == [False, False, True]
    assert_close(net(data).prediction, net.heads["y"](net.node_norm(h)))


@pytest.mark.parametrize("more", [{"edge_update": True}, {"norm": "batch"}])
def test_saved_and_loaded(more, tmp_path):
    net, data = made(**more), a_graph()
    net.train()(data)  # a batch norm remembers what it saw
    expected = net.eval()(data).prediction
    GraphModel(net, Scaling(), {}).save(tmp_path)
    again = load_graph_model(tmp_path).net
    assert_close(again.double()(data).prediction, expected, atol=1e-5, rtol=1e-4)
    assert again.settings["edge_update"] == more.get("edge_update", False)


def test_without_them_nothing_is_new():
    """Names of parameters are what they were before there were these options."""
    plain = {name for name, _ in made().state_dict().items()}
    assert not any(".edges." in name or "running" in name for name in plain)
    assert plain < {name for name, _ in made(edge_update=True).state_dict().items()}


def test_batch_norm_keeps_magnitudes_and_takes_a_lone_node():
    batch = Batch.from_data_list([a_graph(5, 7, 1), a_graph(9, 20, 2)])
    net = made(norm="batch")
    h = net.embed(batch).h
    layer, batched = (
        made(norm=name).layers[0].blocks[0].attention_norm for name in ("layer", "batch")
    )
    large = torch.cat((h, 10 * h))
    with torch.no_grad():
        for module in (layer, batched.module):
            module.weight.fill_(1.0)
            module.bias.fill_(0.0)
    batched.eval()
    spread = large.std(-1)
    assert (spread[len(h) :] > 5 * spread[: len(h)]).all()
    kept, lost = batched(large).std(-1), layer(large).std(-1)
    assert_close(kept[len(h) :], 10 * kept[: len(h)], rtol=1e-4, atol=1e-4)
    assert_close(lost[len(h) :], lost[: len(h)], rtol=1e-3, atol=1e-3)
    lone = a_graph(1, 0, 3)
    assert net.train()(lone).prediction.isfinite().all()


def test_what_is_told():
    with pytest.raises(ValueError, match="updates features of pairs, and these have none: give ed"):
        gf.GraphTransformer(4, None, edge_update=True, **SIZES)
    with pytest.raises(TypeError, match="edge_update must be True or False, got 'yes'"):
        made(edge_update="yes")


def test_passes_with_dropout_leave_what_a_batch_norm_learned():
    graphs = [a_graph(5, 7, seed) for seed in range(3)]
    model = GraphModel(made(norm="batch", dropout=0.5), Scaling(), {})
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    one, alone = model.sample(graphs, 3), model.sample(graphs, 3, max_nodes=5)
    assert not torch.equal(one[0], one[1])
    assert one.shape == alone.shape == (3, 15, 1)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name
